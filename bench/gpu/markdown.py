"""Markdown tables on standard output."""


def table(head, rows):
    """`head`: the columns' titles; `rows`: lists of as many texts."""
    print("| " + " | ".join(head) + " |")
    print("|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()

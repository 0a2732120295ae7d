// What a block of the prefill kernel works on, one after another: blocks of query rows of one kv head. All parts of the
// block walk the same list, each as far ahead as its ring lets it.
#pragma once
#include "ops/quant-kv-attention/cuda/sequence.cuh"

namespace lowbit::cuda {

constexpr int kPrefillRows = 128;  // query rows of an item

// Query rows from `first_row` on of a kv head of a sequence, which see keys [begin, end); `begin` starts a tile. An
// item without keys has begin == end, and b is -1 behind the last item.
struct PrefillItem {
  int b, kv_head, first_row, begin, end;
  KvSequence sequence;
};

__device__ __forceinline__ int PrefillLevels(const KvArgs& args) {
  return (args.query_rows() + kPrefillRows - 1) / kPrefillRows;
}

// The items of this block. So many heads that they are four rounds of the grid form a group, whose items go out with
// the longest first (late rows see most keys), every other round backwards, so that all blocks get as much; a group's
// keys fit into the L2 cache. Shapes alone decide: lengths make items shorter, not others.
template <int kKeys>
class PrefillItems {
 public:
  __device__ __forceinline__ explicit PrefillItems(const KvArgs& args) : args_(args) {}

  __device__ __forceinline__ PrefillItem Next() {
    constexpr int kRounds = 4;
    const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
    const int at = round_ * blocks + (round_ % 2 == 0 ? block : blocks - 1 - block);
    ++round_;
    const int levels = PrefillLevels(args_), heads = args_.batch * args_.kv_heads;
    if (at >= levels * heads) return {-1, 0, 0, 0, 0, KvSequence()};
    const int most = (kRounds * blocks + levels - 1) / levels, group = at / (most * levels);
    const int there = min(most, heads - group * most), within = at - group * most * levels, level = within / there;
    const int head = group * most + within - level * there, b = head / args_.kv_heads;
    PrefillItem item{b, head - b * args_.kv_heads, (levels - 1 - level) * kPrefillRows, 0, 0, KvSequence(args_, b)};
    const int share = args_.group(), last_row = min(item.first_row + kPrefillRows, args_.query_rows()) - 1;
    const int queries = item.sequence.length - item.sequence.start;
    if (queries > item.first_row / share) {
      item.begin = KvSpan(args_, item.sequence, item.first_row / share).begin / kKeys * kKeys;
      item.end = KvSpan(args_, item.sequence, min(last_row / share, queries - 1)).end;
    }
    return item;
  }

 private:
  const KvArgs& args_;
  int round_ = 0;
};

// Results of queries that are not there: 0, or NaN where the length is wrong. Called by 128 threads.
template <int kDim>
__device__ __forceinline__ void WriteNothing(const KvArgs& args, const PrefillItem& item) {
  const uint32_t word = item.sequence.valid ? 0 : 0x7fff7fffu;  // NaN in float16 and bfloat16
  const int group = args.group();
  for (int i = threadIdx.x % 128; i < kPrefillRows * (kDim / 8); i += 128) {
    const int query = item.first_row + i / (kDim / 8), s = query / group;
    if (query >= args.query_rows()) break;
    const int64_t row =
        (static_cast<int64_t>(item.b) * args.tokens + s) * args.heads + item.kv_head * group + (query - s * group);
    reinterpret_cast<uint4*>(static_cast<uint16_t*>(args.y) + row * kDim)[i % (kDim / 8)] =
        make_uint4(word, word, word, word);
  }
}

}  // namespace lowbit::cuda

/**
 * What a linear layer is in the network: from names where they tell, else from structure. A model family with other names is a row
 * here, not a condition elsewhere.
 */
import type { LinearSite, Role } from './sites.js';

/** First match wins. Names are in lower case with `/` and `.` between parts. */
const named: readonly (readonly [RegExp, Role])[] = [
  [/(^|[./_])(lm_head|embed_out|output_projection)([./_]|$)/, 'lm_head'],
  [/(qkv_proj|query_key_value|c_attn|wqkv|w_pack|qkv|in_proj)([./_]|$)/, 'qkv_proj'],
  [/(gate_up_proj)([./_]|$)/, 'gate_up_proj'],
  [/(^|[./_])(q_proj|q_lin|wq)([./_]|$)|[./]query([./]|$)/, 'q_proj'],
  [/(^|[./_])(k_proj|k_lin|wk)([./_]|$)|[./]key([./]|$)/, 'k_proj'],
  [/(^|[./_])(v_proj|v_lin|wv)([./_]|$)|[./]value([./]|$)/, 'v_proj'],
  [/(^|[./_])(o_proj|out_proj|out_lin|wo)([./_]|$)|att(n|ention)[./](c_proj|output[./]dense|dense)([./_]|$)/, 'o_proj'],
  [/(^|[./_])(gate_proj)([./_]|$)/, 'gate_proj'],
  [/(^|[./_])(up_proj)([./_]|$)/, 'up_proj'],
  [/(^|[./_])(down_proj)([./_]|$)/, 'down_proj'],
  [/(^|[./_])(fc1|c_fc|fc_in|dense_h_to_4h|lin1)([./_]|$)|intermediate[./]dense/, 'fc1'],
  [/(^|[./_])(fc2|fc_out|dense_4h_to_h|lin2)([./_]|$)|mlp[./]c_proj|[^n][./]output[./]dense/, 'fc2'],
];

const layerNumber = /(?:^|[./_])(?:layers?|h|blocks?|decoder_layers?)[./_](\d+)(?:[./_]|$)/;

/** Names that may tell what a site is, most telling first. */
function namesOf(site: LinearSite): string[] {
  return [site.node.name, site.weightValue?.name ?? '', site.y.name].map((name) => name.toLowerCase());
}

/** The role that the site's names give away. */
export function roleByName(site: LinearSite): Role | undefined {
  for (const name of namesOf(site)) {
    const row = named.find(([pattern]) => pattern.test(name));
    if (row) return row[1];
  }
  return undefined;
}

/** The block number in the site's names. */
export function layerByName(site: LinearSite): number | undefined {
  for (const name of namesOf(site)) {
    const number = layerNumber.exec(name)?.[1];
    if (number !== undefined) return Number(number);
  }
  return undefined;
}

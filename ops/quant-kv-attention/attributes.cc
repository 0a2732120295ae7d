#include "ops/quant-kv-attention/attributes.h"

#include <cmath>

namespace lowbit {

Status ReadQuantKvAttentionAttributes(const KernelInfo& info, const std::string& where,
                                      QuantKvAttentionAttributes* attributes) {
  QuantKvAttentionAttributes& at = *attributes;
  const int64_t zero = 0, one = 1, four = 4;
  const float none = 0, all = 1;
  int64_t causal = 1, in_place = 0;
  std::string rotary, kv_rope, q_format;
  LOWBIT_TRY(info.Int("num_heads", &at.heads));
  LOWBIT_TRY(info.Int("kv_num_heads", &at.kv_heads));
  LOWBIT_TRY(info.Int("head_dim", &at.head_dim));
  LOWBIT_TRY(info.Int("bits", &at.bits, &four));
  LOWBIT_TRY(info.Float("clip", &at.clip, &all));
  LOWBIT_TRY(info.Float("scale", &at.scale, &none));
  LOWBIT_TRY(info.Float("softcap", &at.softcap, &none));
  LOWBIT_TRY(info.Int("causal", &causal, &one));
  LOWBIT_TRY(info.Int("window", &at.window, &zero));
  LOWBIT_TRY(info.String("rotary", &rotary, "none"));
  LOWBIT_TRY(info.String("kv_rope", &kv_rope, "pre"));
  LOWBIT_TRY(info.Int("in_place", &in_place, &zero));
  LOWBIT_TRY(info.String("q_format", &q_format, "none"));

  LOWBIT_EXPECT(at.kv_heads > 0 && at.heads > 0 && at.heads % at.kv_heads == 0, where,
                ": attributes num_heads and kv_num_heads are ", at.heads, " and ", at.kv_heads,
                ", expected num_heads to be a multiple of kv_num_heads, both above 0.");
  LOWBIT_EXPECT(at.head_dim > 0 && at.head_dim <= 512 && at.head_dim % 16 == 0, where, ": attribute head_dim is ",
                at.head_dim, ", expected a multiple of 16 from 16 to 512.");
  LOWBIT_EXPECT(at.bits == 4 || at.bits == 8, where, ": attribute bits is ", at.bits, ", expected 4 or 8.");
  LOWBIT_EXPECT(at.clip >= 0.01f && at.clip <= 1, where, ": attribute clip is ", at.clip, ", expected 0.01 … 1.");
  LOWBIT_EXPECT(std::isfinite(at.scale), where, ": attribute scale is ", at.scale, ", expected a finite number.");
  LOWBIT_EXPECT(at.softcap >= 0, where, ": attribute softcap is ", at.softcap, ", expected 0 or more.");
  LOWBIT_EXPECT(at.window >= 0, where, ": attribute window is ", at.window, ", expected 0 or more.");
  LOWBIT_EXPECT((causal == 0 || causal == 1) && (in_place == 0 || in_place == 1), where,
                ": attributes causal and in_place are ", causal, " and ", in_place, ", expected 0 or 1.");
  LOWBIT_EXPECT(rotary == "none" || rotary == "half" || rotary == "interleaved", where, ": attribute rotary is '",
                rotary, "', expected one of none, half, interleaved.");
  LOWBIT_EXPECT(kv_rope == "pre" || kv_rope == "post", where, ": attribute kv_rope is '", kv_rope,
                "', expected one of pre, post.");
  at.quantize = q_format != "none";
  at.causal = causal == 1;
  at.in_place = in_place == 1;
  at.rope_before_store = kv_rope == "post";
  at.rotary = rotary == "none" ? kv::Rotary::kNone : rotary == "half" ? kv::Rotary::kHalf : kv::Rotary::kInterleaved;
  if (at.scale == 0) at.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(at.head_dim)));
  return Status::Ok();
}

}  // namespace lowbit

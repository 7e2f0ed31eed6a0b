// Joining results over disjoint keys, in a fixed order: the same bits on every run.

#pragma once

#include "plan.h"
#include "primitives.cuh"
#include "rows.cuh"
#include "softmax.cuh"

namespace xattn {

constexpr int kCombineThreads = 128;

// Weight of a part whose log-sum-exp is `lse` (natural) in a whole whose highest is `reference`.
XATTN_DEVICE float part_weight(float lse, float reference) { return fast_exp2((lse - reference) * kLog2e); }

XATTN_DEVICE float joined_lse(float reference, float sum) {
  return sum > 0.0f ? reference + fast_log2(sum) * kLn2 : -kInfinity;
}

// A thread for two columns of a row.
template <typename T>
XATTN_KERNEL void XATTN_BOUNDS(kCombineThreads, 1) combine_kernel(const CombineParams params) {
  const int pairs = params.width / 2;
  const int64_t piece = static_cast<int64_t>(block_id_x()) * kCombineThreads + thread_id();
  const int64_t row = piece / pairs;
  const int column = static_cast<int>(piece - row * pairs) * 2;
  if (row >= params.rows) return;
  float highest = -kInfinity;
  for (int part = 0; part < params.parts; ++part) {
    highest = larger(highest, params.partial_lse[(part * params.rows + row) * 2]);
  }
  const float reference = reference_of(highest);
  RowSums sums;
  float low = 0.0f, high = 0.0f;
  for (int part = 0; part < params.parts; ++part) {
    const float* lse = params.partial_lse + (part * params.rows + row) * 2;
    const float weight = part_weight(lse[0], reference);
    const FloatPair values = load_floats(params.partial_out + (part * params.rows + row) * params.width + column);
    sums += {weight, part_weight(lse[1], reference)};
    low += weight * values.low;
    high += weight * values.high;
  }
  const float scale = normalizer(sums);
  T* out = static_cast<T*>(params.out) + row * params.width + column;
  out[0] = from_float<T>(low * scale);
  out[1] = from_float<T>(high * scale);
  if (column == 0) params.lse[row] = joined_lse(reference, sums.exact);
}

// A thread for one value of a row.
template <typename T>
XATTN_KERNEL void XATTN_BOUNDS(kCombineThreads, 1) merge_kernel(const MergeParams params) {
  const int64_t piece = static_cast<int64_t>(block_id_x()) * kCombineThreads + thread_id();
  const int64_t row = piece / params.width;
  if (row >= params.rows) return;
  const float reference = reference_of(larger(params.lse1[row], params.lse2[row]));
  const float weight1 = part_weight(params.lse1[row], reference);
  const float weight2 = part_weight(params.lse2[row], reference);
  const float scale = normalizer({weight1 + weight2, 0.0f});
  const float value1 = to_float(static_cast<const T*>(params.out1)[piece]);
  const float value2 = to_float(static_cast<const T*>(params.out2)[piece]);
  static_cast<T*>(params.out)[piece] = from_float<T>((weight1 * value1 + weight2 * value2) * scale);
  if (piece == row * params.width) params.lse[row] = joined_lse(reference, weight1 + weight2);
}

}  // namespace xattn

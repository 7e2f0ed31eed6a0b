// Pieces of an online softmax over scores in powers of two.
//
// A row's weights are exp2(score - maximum), where `maximum` is its highest score so far rounded UP to a whole number.
// Rescaling therefore multiplies by powers of two: it is exact, and how a weight is rounded to the input type almost
// never depends on how the keys were tiled or split: only where float32 rounds score - maximum differently. Sums are of
// the weights as rounded, so that the weights that multiply the values add up to exactly one: what the values have in
// common passes through unharmed. The log-sum-exp is of the weights before rounding.

#pragma once

#include "primitives.cuh"
#include "rows.cuh"

namespace xattn {

XATTN_DEVICE float larger(float x, float y) { return x > y ? x : y; }

// The maximum that weights are scaled by: 0 while every score was masked, where any finite number would do.
XATTN_DEVICE float reference_of(float maximum) { return maximum == -kInfinity ? 0.0f : maximum; }

// Over the four lanes that hold one row of an mma accumulator.
XATTN_DEVICE float quad_maximum(float x) {
  x = larger(x, shuffle_xor(x, 1));
  return larger(x, shuffle_xor(x, 2));
}

XATTN_DEVICE float quad_sum(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}

XATTN_DEVICE RowSums quad_sum(const RowSums& sums) { return {quad_sum(sums.rounded), quad_sum(sums.exact)}; }

// Two weights rounded to the input type, and added to the sums.
template <typename T>
XATTN_DEVICE uint32_t weigh_pair(float score_low, float score_high, float reference, RowSums& sums) {
  const float low = fast_exp2(score_low - reference), high = fast_exp2(score_high - reference);
  const uint32_t packed = pack2(low, high, T{});
  float rounded_low, rounded_high;
  unpack2(packed, rounded_low, rounded_high, T{});
  sums += {rounded_low + rounded_high, low + high};
  return packed;
}

// Accumulator of a 16 x (8 * Tiles) block of scores, as mma leaves it: row lane / 4 in [0..1], row lane / 4 + 8 in
// [2..3], columns 2 * (lane % 4) and the next.
template <int Tiles>
XATTN_DEVICE void scale_and_mask(float (&score)[Tiles][4], float scale_log2, int first_key, int key_end) {
  const int column = first_key + 2 * (lane_id() & 3);
  XATTN_UNROLL
  for (int tile = 0; tile < Tiles; ++tile) {
    XATTN_UNROLL
    for (int i = 0; i < 4; ++i) {
      const bool attended = column + 8 * tile + (i & 1) < key_end;
      score[tile][i] = attended ? score[tile][i] * scale_log2 : -kInfinity;
    }
  }
}

}  // namespace xattn

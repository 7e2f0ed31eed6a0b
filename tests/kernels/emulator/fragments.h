// Where the elements of a matrix lie in a warp's registers, as the PTX manual has it under "Matrix Fragments for
// mma.m16n8k16 with floating point type" and "ldmatrix". With group = lane / 4 and pair = lane % 4:
//
//   A (16 x 16)  a0 a1  row group      column 2 pair + i        a4 a5  row group      column 2 pair + i + 8
//                a2 a3  row group + 8  column 2 pair + i        a6 a7  row group + 8  column 2 pair + i + 8
//   B (16 x 8)   b0 b1  row 2 pair + i      column group        b2 b3  row 2 pair + i + 8  column group
//   C (16 x 8)   c0 c1  row group      column 2 pair + i        c2 c3  row group + 8  column 2 pair + i
//   ldmatrix     register m of a lane holds row group, columns 2 pair + i of matrix m; its row r is at the address
//                that lane 8 m + r gives. Transposed: row 2 pair + i, column group.
//
// where i is the low bit of the element's number, and two elements share a 32-bit register, the even one low.
#pragma once

namespace xattn::emulator {

struct Place {
  int row, column;
};

constexpr Place place_in_a(int lane, int element) {
  return {lane / 4 + 8 * (element / 2 % 2), lane % 4 * 2 + element % 2 + 8 * (element / 4)};
}

constexpr Place place_in_b(int lane, int element) {
  return {lane % 4 * 2 + element % 2 + 8 * (element / 2), lane / 4};
}

constexpr Place place_in_c(int lane, int element) {
  return {lane / 4 + 8 * (element / 2), lane % 4 * 2 + element % 2};
}

constexpr Place place_in_loaded(int lane, int half, bool transposed) {
  const int of_pair = lane % 4 * 2 + half;
  return transposed ? Place{of_pair, lane / 4} : Place{lane / 4, of_pair};
}

}  // namespace xattn::emulator

// Tiles of 16-bit values in shared memory, and the fragments that mma takes from them.
//
// A tile's rows are whole multiples of 128 bytes. The 16-byte chunks of a row are permuted by its number modulo 8, so
// that the eight rows which one phase of ldmatrix reads lie in eight different groups of banks.

#pragma once

#include "primitives.cuh"

namespace xattn {

constexpr int kChunk = 8;  // values in 16 bytes

// Where a chunk of a row starts, in bytes. `Columns`: of the tile.
template <int Columns>
XATTN_DEVICE int chunk_at(int row, int chunk) {
  static_assert(Columns % 64 == 0, "a row is a whole multiple of 128 bytes");
  return row * (Columns * 2) + (chunk ^ (row & 7)) * 16;
}

// The same for a row within a run of rows that starts at a multiple of eight. What differs by lane is kept apart from
// `first_row`, so that unrolled loops share one address register.
template <int Columns>
XATTN_DEVICE const unsigned char* chunk_of_run(const unsigned char* tile, int first_row, int row, int chunk) {
  return tile + row * (Columns * 2) + (chunk ^ (row & 7)) * 16 + first_row * (Columns * 2);
}

// A (16 x 16, row-major) from rows first_row.. and columns 8 * chunk...
template <int Columns>
XATTN_DEVICE void load_a(uint32_t (&a)[4], const unsigned char* tile, int first_row, int chunk) {
  const int lane = lane_id();
  load_matrix_x4(a, chunk_of_run<Columns>(tile, first_row, lane & 15, chunk + (lane >> 4)));
}

// Two Bs (16 x 8 each) whose columns are the tile's rows first_row.. and first_row + 8..: for products with its
// transpose.
template <int Columns>
XATTN_DEVICE void load_b_rows(uint32_t (&b0)[2], uint32_t (&b1)[2], const unsigned char* tile, int first_row,
                              int chunk) {
  const int lane = lane_id();
  const int row = (lane & 7) + ((lane >> 4) << 3);
  uint32_t r[4];
  load_matrix_x4(r, chunk_of_run<Columns>(tile, first_row, row, chunk + ((lane >> 3) & 1)));
  b0[0] = r[0], b0[1] = r[1], b1[0] = r[2], b1[1] = r[3];
}

// Two Bs (16 x 8 each) whose rows are the tile's rows first_row.. and whose columns are its columns 8 * chunk...
template <int Columns>
XATTN_DEVICE void load_b_columns(uint32_t (&b0)[2], uint32_t (&b1)[2], const unsigned char* tile, int first_row,
                                 int chunk) {
  const int lane = lane_id();
  uint32_t r[4];
  load_matrix_x4_transposed(r, chunk_of_run<Columns>(tile, first_row, lane & 15, chunk + (lane >> 4)));
  b0[0] = r[0], b0[1] = r[1], b1[0] = r[2], b1[1] = r[3];
}

// One 16-byte piece of copy_rows, `piece` of them before it in the tile.
template <int Columns, typename Source>
XATTN_DEVICE void copy_piece(unsigned char* tile, int piece, int num_valid, Source source) {
  const int row = piece / (Columns / kChunk);
  const int chunk = piece % (Columns / kChunk);
  copy_async_16(tile + chunk_at<Columns>(row, chunk), source(row) + chunk * kChunk, row < num_valid);
}

// Copies Rows rows of `Columns` values into a tile with all `Threads` threads of a block; rows from num_valid on become
// zeros. `source` gives a row's first value, for rows beyond too, where nothing is read.
template <int Rows, int Columns, int Threads, typename Source>
XATTN_DEVICE void copy_rows(unsigned char* tile, int num_valid, Source source) {
  static_assert(Rows * (Columns / kChunk) % Threads == 0, "every thread copies as much");
  XATTN_UNROLL
  for (int i = 0; i < Rows * (Columns / kChunk) / Threads; ++i) {
    copy_piece<Columns>(tile, thread_id() + i * Threads, num_valid, source);
  }
}

// The same where addresses of all of a thread's pieces at once would take more registers than there are.
template <int Rows, int Columns, int Threads, typename Source>
XATTN_DEVICE void copy_rows_one_by_one(unsigned char* tile, int num_valid, Source source) {
  XATTN_ROLLED
  for (int piece = thread_id(); piece < Rows * (Columns / kChunk); piece += Threads) {
    copy_piece<Columns>(tile, piece, num_valid, source);
  }
}

}  // namespace xattn

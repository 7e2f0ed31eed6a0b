// The emulator's own test: one small kernel that is right, and the same with one fault planted at a time.
//
//   planted FAULT SEED                reads A (16 x 32 halves) and B (32 x 8), writes A B (16 x 8 floats)
//   planted loaded COUNT TRANSPOSED   reads 8 COUNT rows of 8 halves, writes every lane's registers of ldmatrix
//   planted mma TYPE                  reads every lane's a (8 of a type), b (4), c (4 floats), writes every lane's d
//   planted numbers TYPE              reads floats, writes them rounded to the type, and those as floats again
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "emulator.h"

namespace {

using namespace xattn;

enum class Fault {
  kNone, kNoBarrier, kNoBarrierAfterWait, kUnorderedSum, kNoWarpSync, kSharedOverrun, kGlobalOverrun, kGlobalOverread,
  kWrongFragment, kNoWait, kOneGroupTooFew, kOverwrittenCopy, kReusedTooEarly, kUnevenBarrier, kMissingLane,
  kPartingLanes, kMisalignedRow,
};

struct Params {
  const half_t* a;
  const half_t* b;
  float* out;
};

struct Shared {
  half_t a[16][32];
  half_t b[32][8];
  float partial[16][8];
};

template <Fault kFault>
void load_tiles(Shared& shared, const Params& params) {
  const int a_chunk = thread_id();
  const int shift = kFault == Fault::kGlobalOverread && a_chunk == 63 ? 8 : 0;
  copy_async_16(&shared.a[a_chunk / 4][a_chunk % 4 * 8], params.a + a_chunk * 8 + shift, true);
  commit_copies();
  if (warp_id() == 0) copy_async_16(&shared.b[lane_id()][0], params.b + lane_id() * 8, true);
  commit_copies();
  if (kFault == Fault::kOverwrittenCopy && warp_id() == 0) shared.b[lane_id()][0] = half_t{0};
  if (kFault == Fault::kOneGroupTooFew) {
    wait_copies<1>();
  } else if (kFault != Fault::kNoWait) {
    wait_copies<0>();
  }
  if (kFault != Fault::kNoBarrierAfterWait) sync_block();
}

// The warp's half of the sum over k.
template <Fault kFault>
void multiply(const Shared& shared, float (&d)[4]) {
  const int k = 16 * warp_id(), lane = lane_id();
  std::uint32_t a[4], b[2];
  const half_t* row = &shared.a[lane % 16][k + lane / 16 * 8];
  load_matrix_x4(a, kFault == Fault::kMisalignedRow ? row + 1 : row);
  load_matrix_x2_transposed(b, &shared.b[k + lane % 16][0]);
  if (kFault == Fault::kWrongFragment) std::swap(a[1], a[2]);
  mma_16816(d, a, b, half_t{});
}

template <Fault kFault>
void kernel(const Params& params) {
  Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared());
  float* partial = &shared.partial[0][0];
  for (int i = thread_id(); i < 128; i += 64) partial[i] = 0.0f;
  load_tiles<kFault>(shared, params);
  float d[4] = {};
  multiply<kFault>(shared, d);
  if (kFault == Fault::kMissingLane && thread_id() == 5) return;
  if (kFault == Fault::kPartingLanes && lane_id() < 7) sync_warp();
  d[0] = shuffle_xor(shuffle_xor(d[0], 4), 4);
  if (kFault == Fault::kReusedTooEarly && thread_id() == 0) copy_async_16(&shared.a[0][16], params.a, false);
  const int at = lane_id() / 4 * 8 + lane_id() % 4 * 2;
  for (int turn = 1; turn >= 0; --turn) {
    for (int i = 0; i < 4; ++i)
      if (warp_id() == turn || kFault == Fault::kUnorderedSum) partial[at + i % 2 + i / 2 * 64] += d[i];
    if (kFault != Fault::kNoBarrier) sync_block();
    if (kFault == Fault::kUnorderedSum) break;
  }
  if (kFault == Fault::kSharedOverrun && thread_id() == 63) partial[128] = 0.0f;
  const int end = kFault == Fault::kGlobalOverrun && thread_id() == 0 ? 129 : 128;
  for (int i = thread_id(); i < end; i += 64) params.out[i] = partial[i < 128 ? i : 0];
  if (kFault == Fault::kUnevenBarrier && warp_id() == 0) sync_block();
}

// Lanes of one warp that hand something on through shared memory.
void exchange_within_a_warp(const Params& params) {
  auto* word = reinterpret_cast<float*>(dynamic_shared());
  word[thread_id()] = 1.0f;
  params.out[thread_id()] = word[thread_id() ^ 1];
}

template <typename T>
std::vector<T> read_all(std::size_t count) {
  std::vector<T> values(count);
  if (std::fread(values.data(), sizeof(T), count, stdin) != count) std::abort();
  values.shrink_to_fit();
  return values;
}

template <typename T>
void write_all(const std::vector<T>& values) {
  std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

template <Fault kFault>
void run_kernel(std::uint64_t seed) {
  const auto a = read_all<half_t>(16 * 32), b = read_all<half_t>(32 * 8);
  std::vector<float> out(16 * 8, std::nanf(""));
  const Params params{a.data(), b.data(), out.data()};
  const emulator::Launch launch{1, 1, 1, 64, sizeof(Shared)};
  const auto tested = kFault == Fault::kNoWarpSync ? exchange_within_a_warp : kernel<kFault>;
  emulator::run(launch, seed, [&] { tested(params); });
  write_all(out);
}

void run_loaded(int count, bool transposed) {
  const auto matrices = read_all<half_t>(64 * static_cast<std::size_t>(count));
  std::vector<std::uint32_t> registers(32 * static_cast<std::size_t>(count));
  emulator::run({1, 1, 1, 32, matrices.size() * 2}, 0, [&] {
    auto* shared = reinterpret_cast<half_t*>(dynamic_shared());
    for (std::size_t i = lane_id(); i < matrices.size(); i += 32) shared[i] = matrices[i];
    sync_warp();
    std::uint32_t four[4], two[2];
    const half_t* row = shared + 8 * (lane_id() % (8 * count));
    if (count == 4) transposed ? load_matrix_x4_transposed(four, row) : load_matrix_x4(four, row);
    if (count == 2) transposed ? load_matrix_x2_transposed(two, row) : load_matrix_x2(two, row);
    for (int m = 0; m < count; ++m) registers[lane_id() * count + m] = count == 4 ? four[m] : two[m];
  });
  write_all(registers);
}

template <typename T>
void run_mma() {
  const auto a = read_all<std::uint32_t>(32 * 4), b = read_all<std::uint32_t>(32 * 2);
  auto d = read_all<float>(32 * 4);
  emulator::run({}, 0, [&] {
    using Four = std::uint32_t[4];
    using Two = std::uint32_t[2];
    using Floats = float[4];
    const int lane = lane_id();
    mma_16816(reinterpret_cast<Floats&>(d[4 * lane]), reinterpret_cast<const Four&>(a[4 * lane]),
              reinterpret_cast<const Two&>(b[2 * lane]), T{});
  });
  write_all(d);
}

template <typename T>
void run_numbers() {
  float value;
  while (std::fread(&value, sizeof value, 1, stdin) == 1) {
    const T rounded = from_float<T>(value);
    const float back = to_float(rounded);
    std::fwrite(&rounded, sizeof rounded, 1, stdout);
    std::fwrite(&back, sizeof back, 1, stdout);
  }
}

template <int kFault>
void run_fault(int fault, std::uint64_t seed) {
  if (fault == kFault) return run_kernel<static_cast<Fault>(kFault)>(seed);
  if constexpr (kFault < static_cast<int>(Fault::kMisalignedRow)) run_fault<kFault + 1>(fault, seed);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const std::string what = argv[1];
  const bool half = std::string(argv[2]) == "half";
  if (what == "loaded") {
    run_loaded(std::atoi(argv[2]), std::string(argv[3]) == "1");
  } else if (what == "mma") {
    half ? run_mma<half_t>() : run_mma<bf16_t>();
  } else if (what == "numbers") {
    half ? run_numbers<half_t>() : run_numbers<bf16_t>();
  } else {
    run_fault<0>(std::atoi(argv[1]), std::strtoull(argv[2], nullptr, 10));
  }
  return 0;
}

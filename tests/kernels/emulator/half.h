// The 16-bit types as the kernels see them on the host: storage only, every sum is made in float.
#pragma once

#include <cstdint>
#include <cstring>

namespace xattn {

struct half_t {
  std::uint16_t bits;
};

struct bf16_t {
  std::uint16_t bits;
};

namespace emulator {

inline std::uint32_t float_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float bits_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Drops the low `count` bits of a magnitude, to nearest, ties to even; a carry into the exponent is what is wanted.
inline std::uint32_t round_off(std::uint32_t magnitude, int count) {
  const std::uint32_t odd = (magnitude >> count) & 1u;
  return (magnitude + (1u << (count - 1)) - 1u + odd) >> count;
}

inline std::uint16_t half_bits(float value) {
  const std::uint32_t sign = float_bits(value) >> 31 << 15;
  const std::uint32_t magnitude = float_bits(value) & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // 65520 and more: infinity
  if (magnitude < 0x38800000u) {
    // Subnormal in half: adding 0.5 leaves the value's multiple of 2^-24, rounded to even, in the low bits.
    const std::uint32_t sum = float_bits(bits_float(magnitude) + 0.5f);
    return static_cast<std::uint16_t>(sign | (sum - 0x3f000000u));
  }
  return static_cast<std::uint16_t>(sign | round_off(magnitude - (112u << 23), 13));
}

inline std::uint16_t bf16_bits(float value) {
  const std::uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 31 << 15 | 0x7fc0u);
  return static_cast<std::uint16_t>(round_off(bits, 16));
}

}  // namespace emulator

inline float to_float(float value) { return value; }

inline float to_float(half_t value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t shifted = static_cast<std::uint32_t>(value.bits & 0x7fffu) << 13;
  // Infinities and NaN keep an exponent of all ones; everything else is rescaled, subnormals with it.
  if (shifted >= 0x0f800000u) return emulator::bits_float(sign | shifted | 0x7f800000u);
  return emulator::bits_float(sign | emulator::float_bits(emulator::bits_float(shifted) * 0x1p112f));
}

inline float to_float(bf16_t value) { return emulator::bits_float(static_cast<std::uint32_t>(value.bits) << 16); }

template <typename T>
inline T from_float(float value);

template <>
inline float from_float<float>(float value) { return value; }

template <>
inline half_t from_float<half_t>(float value) { return half_t{emulator::half_bits(value)}; }

template <>
inline bf16_t from_float<bf16_t>(float value) { return bf16_t{emulator::bf16_bits(value)}; }

// Two values in one register, the first in the low half.
template <typename T>
inline std::uint32_t pack2(float low, float high, T) {
  const std::uint32_t upper = from_float<T>(high).bits;
  return upper << 16 | from_float<T>(low).bits;
}

template <typename T>
inline void unpack2(std::uint32_t packed, float& low, float& high, T) {
  low = to_float(T{static_cast<std::uint16_t>(packed & 0xffffu)});
  high = to_float(T{static_cast<std::uint16_t>(packed >> 16)});
}

// Element by element. A product of two 16-bit floats is exact in float, so it is rounded once.
template <typename T>
inline std::uint32_t multiply2(std::uint32_t x, std::uint32_t y, T tag) {
  float x_low, x_high, y_low, y_high;
  unpack2(x, x_low, x_high, tag);
  unpack2(y, y_low, y_high, tag);
  return pack2(x_low * y_low, x_high * y_high, tag);
}

}  // namespace xattn

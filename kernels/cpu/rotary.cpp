// Half-split rotary embedding in float32. Operations and roundings are those of the model's own code, in its order.
#include "vector.h"

#include <cstdint>

namespace {

// Turns pairs (i, i + pairs) of one head's channels.
template <typename T>
inline void turn(const T* from, const float* cos, const float* sin, int64_t pairs, T* to) {
  for (int64_t i = 0; i < pairs; i += 16) {
    const __mmask16 mask = first(pairs - i);
    const __m512 x = load(from + i, mask), y = load(from + pairs + i, mask);
    const __m512 low = _mm512_mul_ps(x, load(cos + i, mask)), high = _mm512_mul_ps(y, load(cos + pairs + i, mask));
    store(to + i, mask, _mm512_sub_ps(low, _mm512_mul_ps(y, load(sin + i, mask))));
    store(to + pairs + i, mask, _mm512_add_ps(high, _mm512_mul_ps(x, load(sin + pairs + i, mask))));
  }
}

template <typename T>
void run(const T* x, int64_t x_batch, int64_t x_head, int64_t x_row, const float* cos, const float* sin,
         int64_t table_batch, T* out, int64_t batch, int64_t heads, int64_t rows, int64_t channels, int threads) {
#pragma omp parallel for num_threads(threads)
  for (int64_t i = 0; i < batch * rows; ++i) {
    const int64_t b = i / rows, row = i % rows, table = b * table_batch + row * channels;
    for (int64_t h = 0; h < heads; ++h)
      turn(x + b * x_batch + h * x_head + row * x_row, cos + table, sin + table, channels / 2,
           out + (i * heads + h) * channels);
  }
}

}  // namespace

// x [batch, heads, rows, channels] with its strides, in bfloat16 (half) or float32; cos and sin float32 [batch or one,
// rows, channels], batches table_batch elements apart; out [batch, rows, heads, channels].
extern "C" int64_t starquant_rotary(const void* x, int64_t x_batch, int64_t x_head, int64_t x_row, const float* cos,
                                    const float* sin, void* out, int64_t table_batch, int64_t batch, int64_t heads,
                                    int64_t rows, int64_t channels, int64_t half, int64_t threads) {
  const auto with = [&](auto* from, auto* to) {
    run(from, x_batch, x_head, x_row, cos, sin, table_batch, to, batch, heads, rows, channels,
        static_cast<int>(threads));
  };
  if (half)
    with(static_cast<const uint16_t*>(x), static_cast<uint16_t*>(out));
  else
    with(static_cast<const float*>(x), static_cast<float*>(out));
  return 0;
}

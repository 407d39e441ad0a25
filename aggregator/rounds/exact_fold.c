/* The inner loops of the exact fold, bit for bit what exact_sum.py does in numpy, in one pass where numpy takes ten.
 *
 * Compiled when fedmq is installed, where there is a C compiler, and found by fold_kernel.py. No header of Python's is
 * needed. Nothing may be fused or left out: -ffp-contract=off, and never -ffast-math.
 */

#include <stdint.h>
#include <string.h>

/* one machine's library is another's: the loader takes the widest vectors that the processor has */
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

static inline int64_t bits_of(double number)
{
    int64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

/* Adds values times a scale to (high, low). No product may reach 2^51, so that adding to_integer rounds it. */
FOR_EACH_PROCESSOR
void fedmq_fold_add(int64_t *restrict high, int32_t *restrict low, const float *restrict values, int64_t num,
                    double scale, double to_integer, double low_steps)
{
    const uint64_t offset = (uint64_t)bits_of(to_integer);
    for (int64_t i = 0; i < num; i++) {
        double product = (double)values[i] * scale;
        double shifted = product + to_integer;
        double rest = (product - (shifted - to_integer)) * low_steps + to_integer;
        high[i] = (int64_t)((uint64_t)high[i] + ((uint64_t)bits_of(shifted) - offset));
        low[i] = (int32_t)((uint32_t)low[i] + (uint32_t)bits_of(rest)); /* the low half of to_integer is zero */
    }
}

/* The bits of the largest magnitude; those of infinity and NaN compare larger than any number's. */
FOR_EACH_PROCESSOR
uint32_t fedmq_fold_largest(const uint32_t *bits, int64_t num)
{
    uint32_t largest = 0;
    for (int64_t i = 0; i < num; i++) {
        uint32_t magnitude = bits[i] & UINT32_C(0x7fffffff);
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

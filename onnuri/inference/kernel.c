/* One step of a Llama-class decoder for a few sequences, and its head. Knows no requests and no media; `cpu_kernel.py` builds
 * and calls it, `cpu_llama.py` is the same in PyTorch.
 *
 * A step in PyTorch is a hundred small calls, each of which costs more than its work. Here the threads go through the
 * layers together and meet at barriers. Weights lie in panels of 2 * LANES outputs, [panels][inputs][2 * LANES], so that
 * memory is read in order, once for every ROWS sequences. Every sum runs in the same order whatever the number of
 * sequences, so an answer does not depend on who else is decoded.
 *
 * Shapes: N sequences, C width, H heads of S, F hidden, P positions, V vocabulary; lines of scratch are padded to panels.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __F16C__
#include <immintrin.h>
#endif

#ifndef LANES /* -DLANES=8 builds for AVX2 on a machine that has more */
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#endif
#if LANES == 16
#define ROWS 8
#else
#define ROWS 4
#endif
#define PANEL (2 * LANES)
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef WEIGHT weight; /* float, or _Float16 where no weight loses by it: half the memory to read */
typedef weight weights __attribute__((vector_size(sizeof(weight) * LANES), aligned(sizeof(weight)), may_alias));

typedef struct {
    const weight *qkv, *out, *gate_up, *down; /* panels; of gate_up, LANES of the gate, then LANES of up */
    const float *before, *behind;               /* norms' weights [C] */
    float *cache;                               /* [2, rows, H, P, S] */
} Layer;

typedef struct {
    int64_t layers, width, heads, size, hidden, positions, rows, threads;
    float epsilon;
    const float *embedding, *final, *turns; /* [V, C], [C], cosine and sine by turns [P, S] */
    const weight *head;                     /* panels */
    const Layer *layer;
    float *scratch;
} Model;

int64_t lanes(void) { return LANES; }

static int64_t padded(int64_t n) { return (n + PANEL - 1) / PANEL * PANEL; }

/* Floats that a thread needs for itself, and all together. */
static int64_t own_floats(const Model *m) { return m->rows * padded(m->width) + padded(m->positions); }
int64_t scratch_floats(const Model *m)
{
    return m->rows * (2 * padded(m->width) + padded(3 * m->width) + padded(m->hidden)) + m->threads * own_floats(m);
}

static void meet(const Model *m)
{
#ifdef _OPENMP
    if (m->threads > 1) {
#pragma omp barrier
    }
#endif
}

INLINE vec load(const float *x) { return *(const vec *)x; }
INLINE vec widened(const weight *x)
{
    if (sizeof(weight) == sizeof(float)) return load((const float *)x);
#if LANES == 16 && defined __AVX512F__ /* gcc 12 converts a vector one by one */
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)x));
#elif defined __F16C__
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const void *)x));
#else
    return __builtin_convertvector(*(const weights *)x, vec);
#endif
}

INLINE float sum(vec x)
{
    float s[LANES];
    memcpy(s, &x, sizeof s);
    for (int n = LANES / 2; n; n /= 2)
        for (int i = 0; i < n; i++) s[i] += s[i + n];
    return s[0];
}

INLINE vec at_most(vec x, float most)
{
    ints more = x > most;
    return (vec)(((ints)x & ~more) | ((ints)((vec){0} + most) & more));
}

/* Base 2 range reduction and a Taylor polynomial of degree 7 on half an octave either side: 2 units in the last place. */
INLINE vec exponential(vec x)
{
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds */
    x = at_most(-at_most(-x, 87.0f), 87.0f);
    vec whole = (x * 1.44269504088896341f + shift) - shift;
    vec y = x - whole * 0.693359375f;
    y = y + whole * 2.12194440e-4f;
    vec p = y * (1.0f / 5040) + 1.0f / 720;
    p = p * y + 1.0f / 120;
    p = p * y + 1.0f / 24;
    p = p * y + 1.0f / 6;
    p = p * y + 0.5f;
    p = p * y + 1.0f;
    p = p * y + 1.0f;
    ints power = (__builtin_convertvector(whole, ints) + 127) << 23;
    return p * (vec)power;
}

/* Root mean square norm of lines of x (Zhang & Sennrich 2019), times a weight if there is one. */
static void norm(const Model *m, const float *x, int64_t stride, int64_t rows, const float *weight, float *y, int64_t to)
{
    for (int64_t n = 0; n < rows; n++, x += stride, y += to) {
        vec squares = {0};
        int64_t k = 0;
        for (; k + LANES <= m->width; k += LANES) squares += load(x + k) * load(x + k);
        float total = sum(squares);
        for (; k < m->width; k++) total += x[k] * x[k];
        float scale = 1.0f / sqrtf(total / m->width + m->epsilon);
        for (k = 0; k < m->width; k++) y[k] = x[k] * scale * (weight ? weight[k] : 1.0f);
    }
}

enum How { STORE, ADD, GATE };

/* One panel of R lines of x. */
INLINE void panel_of(const int R, const float *x, int64_t stride, const weight *w, int64_t depth, float *y, int64_t to, enum How how)
{
    vec a[ROWS], b[ROWS];
#pragma GCC unroll 8
    for (int n = 0; n < R; n++) a[n] = b[n] = (vec){0};
    for (int64_t k = 0; k < depth; k++, w += PANEL) {
        vec u = widened(w), v = widened(w + LANES);
#pragma GCC unroll 8
        for (int n = 0; n < R; n++) {
            float s = x[n * stride + k];
            a[n] += s * u;
            b[n] += s * v;
        }
    }
#pragma GCC unroll 8
    for (int n = 0; n < R; n++) {
        vec *into = (vec *)(y + n * to);
        if (how == GATE)
            into[0] = a[n] / (1.0f + exponential(-a[n])) * b[n];
        else if (how == ADD)
            into[0] += a[n], into[1] += b[n];
        else
            into[0] = a[n], into[1] = b[n];
    }
}

INLINE void panel(const float *x, int64_t stride, int64_t rows, const weight *w, int64_t depth, float *y, int64_t to, enum How how)
{
    for (int64_t n = 0; n < rows; n += ROWS, x += ROWS * stride, y += ROWS * to) {
        switch (rows - n) {
        case 1: panel_of(1, x, stride, w, depth, y, to, how); break;
        case 2: panel_of(2, x, stride, w, depth, y, to, how); break;
        case 3: panel_of(3, x, stride, w, depth, y, to, how); break;
#if ROWS == 8
        case 4: panel_of(4, x, stride, w, depth, y, to, how); break;
        case 5: panel_of(5, x, stride, w, depth, y, to, how); break;
        case 6: panel_of(6, x, stride, w, depth, y, to, how); break;
        case 7: panel_of(7, x, stride, w, depth, y, to, how); break;
#endif
        default: panel_of(ROWS, x, stride, w, depth, y, to, how);
        }
    }
}

/* This thread's share of the panels of x times weights. */
INLINE void multiply(const Model *m, int64_t thread, const float *x, int64_t stride, int64_t rows, const weight *w, int64_t depth,
                     float *y, int64_t to, int64_t panels, enum How how)
{
    int64_t wide = how == GATE ? LANES : PANEL;
    for (int64_t p = panels * thread / m->threads; p < panels * (thread + 1) / m->threads; p++)
        panel(x, stride, rows, w + p * depth * PANEL, depth, y + p * wide, to, how);
}

/* One head of one sequence: turns query and key (Su et al. 2021), keeps key and value, attends. `parts` vectors a head. */
INLINE void attend(const int parts, const Model *m, const float *qkv, float *keys, float *values, int64_t at, float *scores, float *seen)
{
    const int64_t size = parts * LANES;
    const float *turn = m->turns + at * size, *key = qkv + m->heads * size, scale = 1.0f / sqrtf(size);
    float turned[parts * LANES], *new = keys + at * size;
    for (int64_t k = 0; k < size; k += 2) {
        float c = turn[k], s = turn[k + 1];
        turned[k] = (qkv[k] * c - qkv[k + 1] * s) * scale;
        turned[k + 1] = (qkv[k] * s + qkv[k + 1] * c) * scale;
        new[k] = key[k] * c - key[k + 1] * s;
        new[k + 1] = key[k] * s + key[k + 1] * c;
    }
    memcpy(values + at * size, key + m->heads * size, size * sizeof(float));
    vec query[parts], total = {0}, out[parts];
    for (int d = 0; d < parts; d++) query[d] = load(turned + d * LANES), out[d] = (vec){0};
    float most = -INFINITY;
    for (int64_t j = 0; j <= at; j++, keys += size) {
        vec product = query[0] * load(keys);
        for (int d = 1; d < parts; d++) product += query[d] * load(keys + d * LANES);
        scores[j] = sum(product);
        most = scores[j] > most ? scores[j] : most;
    }
    for (int64_t j = at + 1; j % LANES; j++) scores[j] = -INFINITY;
    for (int64_t j = 0; j <= at; j += LANES) {
        vec share = exponential(load(scores + j) - most);
        *(vec *)(scores + j) = share;
        total += share;
    }
    for (int64_t j = 0; j <= at; j++, values += size)
        for (int d = 0; d < parts; d++) out[d] += scores[j] * load(values + d * LANES);
    float whole = sum(total);
    for (int d = 0; d < parts; d++) *(vec *)(seen + d * LANES) = out[d] / whole;
}

static void attend_all(const Model *m, int64_t thread, const Layer *l, const float *qkv, const int64_t *lengths, int64_t rows,
                       float *scores, float *seen)
{
    const int64_t S = m->size, plane = m->heads * m->positions * S;
    for (int64_t u = thread; u < rows * m->heads; u += m->threads) {
        int64_t n = u / m->heads, h = u % m->heads;
        const float *from = qkv + n * padded(3 * m->width) + h * S;
        float *keys = l->cache + n * plane + h * m->positions * S, *values = keys + m->rows * plane;
        float *to = seen + n * padded(m->width) + h * S;
        switch (S / LANES) {
        case 1: attend(1, m, from, keys, values, lengths[n], scores, to); break;
        case 2: attend(2, m, from, keys, values, lengths[n], scores, to); break;
        case 4: attend(4, m, from, keys, values, lengths[n], scores, to); break;
        case 8: attend(8, m, from, keys, values, lengths[n], scores, to); break;
        case 16: attend(16, m, from, keys, values, lengths[n], scores, to); break;
        }
    }
}

/* One thread's part of a step. */
static void step_of(const Model *m, int64_t thread, const int64_t *ids, const int64_t *lengths, int64_t rows, float *y)
{
    const int64_t C = m->width, F = m->hidden, Cp = padded(C), Qp = padded(3 * C), Fp = padded(F);
    float *x = m->scratch, *seen = x + m->rows * Cp, *qkv = seen + m->rows * Cp, *gated = qkv + m->rows * Qp;
    float *normed = gated + m->rows * Fp + thread * own_floats(m), *scores = normed + m->rows * Cp;
    if (thread == 0)
        for (int64_t n = 0; n < rows; n++) memcpy(x + n * Cp, m->embedding + ids[n] * C, C * sizeof(float));
    meet(m);
    for (const Layer *l = m->layer; l < m->layer + m->layers; l++) {
        norm(m, x, Cp, rows, l->before, normed, Cp);
        multiply(m, thread, normed, Cp, rows, l->qkv, C, qkv, Qp, Qp / PANEL, STORE);
        meet(m);
        attend_all(m, thread, l, qkv, lengths, rows, scores, seen);
        meet(m);
        multiply(m, thread, seen, Cp, rows, l->out, C, x, Cp, Cp / PANEL, ADD);
        meet(m);
        norm(m, x, Cp, rows, l->behind, normed, Cp);
        multiply(m, thread, normed, Cp, rows, l->gate_up, C, gated, Fp, (F + LANES - 1) / LANES, GATE);
        meet(m);
        multiply(m, thread, gated, Fp, rows, l->down, F, x, Cp, Cp / PANEL, ADD);
        meet(m);
    }
    if (thread == 0) norm(m, x, Cp, rows, 0, y, C);
}

/* Normed hidden states y [N, C] of one id a sequence; the first N rows of the cache hold `lengths` [N] and take one more. */
void step(const Model *m, const int64_t *ids, const int64_t *lengths, int64_t rows, float *y)
{
#ifdef _OPENMP
    if (m->threads > 1) {
#pragma omp parallel num_threads(m->threads)
        {
            Model own = *m;
            own.threads = omp_get_num_threads(); /* the system may give fewer */
            step_of(&own, omp_get_thread_num(), ids, lengths, rows, y);
        }
        return;
    }
#endif
    step_of(m, 0, ids, lengths, rows, y);
}

/* One thread's part of logits: panels that a range of ids only cuts go through `edge`. */
static void logits_of(const Model *m, int64_t thread, const float *x, int64_t rows, int64_t lo, int64_t hi, float *y, int64_t to)
{
    const int64_t C = m->width, first = lo / PANEL, panels = (hi + PANEL - 1) / PANEL - first;
    float edge[ROWS * PANEL];
    for (int64_t p = first + panels * thread / m->threads; p < first + panels * (thread + 1) / m->threads; p++) {
        const weight *w = m->head + p * C * PANEL;
        int64_t from = p * PANEL;
        if (from >= lo && from + PANEL <= hi) {
            panel(x, C, rows, w, C, y + from - lo, to, STORE);
            continue;
        }
        int64_t begin = from < lo ? lo : from, end = from + PANEL > hi ? hi : from + PANEL;
        for (int64_t n = 0; n < rows; n += ROWS) {
            int64_t some = rows - n < ROWS ? rows - n : ROWS;
            panel(x + n * C, C, some, w, C, edge, PANEL, STORE);
            for (int64_t k = 0; k < some; k++)
                memcpy(y + (n + k) * to + begin - lo, edge + k * PANEL + begin - from, (end - begin) * sizeof(float));
        }
    }
}

/* Logits y [N, hi - lo] in lines of `to` floats, of normed hidden states x [N, C] times the last norm's weight. */
void logits(const Model *m, const float *x, int64_t rows, int64_t lo, int64_t hi, float *y, int64_t to)
{
#ifdef _OPENMP
    if (m->threads > 1 && (hi - lo) * m->width > 65536) {
#pragma omp parallel num_threads(m->threads)
        {
            Model own = *m;
            own.threads = omp_get_num_threads();
            logits_of(&own, omp_get_thread_num(), x, rows, lo, hi, y, to);
        }
        return;
    }
#endif
    Model alone = *m;
    alone.threads = 1;
    logits_of(&alone, 0, x, rows, lo, hi, y, to);
}

// What every variant shares: how one call is described, threads, and memory that is kept between calls.
#pragma once
#include <stddef.h>
#include <stdint.h>

// A sequence through a recurrent cell. Units of a head lie side by side; strides count floats.
// The same names and the same order as in cells/core.py: change them together.
struct Recurrence {
    int64_t B, T, N, H, P, threads, option;  // P: width of h, H without a projection
    const float* x_pre;
    int64_t x_b, x_t, x_g, x_n;
    const float* R;             // (G, N, H, P)
    const float* more;          // the GRU's bias (N, H), the LSTM's projection (N, P, H); or null
    const int64_t* lengths;     // (B,) or null
    const uint8_t* reset;       // (B, T) or null
    const float* start[4];      // (B, N, P): h; and (B, N, H): c, n, m where the cell has them. Null: the empty state
    float* last[4];
    float* h;                   // (B, T, N, P)
    float* saved;               // what the backward needs: per head, step and row KEEPS * (H up to 16s); or null
    // Backward: in and out.
    const float* d_h;           // (B, T, N, P), by strides
    int64_t dh_b, dh_t, dh_n;
    const float* d_last[3];     // of h, c, n; or null where it is 0
    float* d_x_pre;             // (B, T, G, N, H)
    float* d_R;                 // R's shape, zeros
    float* d_more;              // that of `more`, zeros; or null
    float* d_start[3];          // or null
};

// A sequence through an mLSTM.
struct Memory {
    int64_t B, T, N, K, V, threads, L;
    float eps;
    int32_t beside_eps;  // so that what follows stands where it does in core.py
    const float *q, *k, *v, *i_pre, *f_pre;
    int64_t q_b, q_t, q_n, k_b, k_t, k_n, v_b, v_t, v_n, i_b, i_t, i_n, f_b, f_t, f_n;
    const int64_t* lengths;
    const uint8_t* reset;
    const float *C0, *n0, *m0;  // (B, N, K, V), (B, N, K), (B, N). Null: the empty state
    float *C, *n, *m;
    float* h;                   // (B, T, N, V)
    float* saved;               // C, n, m at the start of every chunk; or null
    const float* d_h;
    int64_t dh_b, dh_t, dh_n;
    const float *d_C, *d_n;     // of the last state; or null
    float *d_q, *d_k, *d_v, *d_i, *d_f;  // contiguous
    float *d_C0, *d_n0;         // or null
};

// One step of an mLSTM from a state on, every tensor contiguous: what `Memory` says of it, in few words.
struct MemoryStep {
    int64_t B, N, K, V, threads;
    float eps;
    int32_t beside_eps;
    const float *q, *k, *v, *i_pre, *f_pre;
    const float *C0, *n0, *m0;
    float *C, *n, *m;           // may be the same
    float* h;
};

// y (M x N) = x (M x K) w, with w (K, N) by strides, plus a bias (N,) or null.
struct Product {
    int64_t M, N, K, threads;
    const float* x;
    int64_t x_m, x_k;
    const float* w;
    int64_t w_k, w_n;
    const float* bias;
    float* y;
};

// Runs body(data, i, n) for i = 0 .. n-1 at once; n may come out smaller than asked for.
typedef void (*Body)(void* data, int64_t i, int64_t n);
void run_parallel(Body body, void* data, int64_t threads);

// Memory of this thread, kept until it ends. At most one use at a time.
float* workspace(int64_t floats);

// Threads of one team wait for one another.
struct Barrier {
    int32_t waiting = 0, round = 0;
    char apart[120];
};
void wait_at(Barrier* barrier, int32_t team);

struct Functions {
    const char* name;
    int64_t width;
    void (*recurrent)(int64_t cell, int64_t backward, const Recurrence*);
    void (*memory)(int64_t backward, const Memory*);
    void (*product)(const Product*);
    void (*gate)(int64_t which, const float* x, float* y, int64_t n);
};

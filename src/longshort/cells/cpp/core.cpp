// The doors of the library, plain C: which variant runs, on whose threads, with which memory.
#include <cstdlib>

#include "shared.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif
#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#define YIELD()
#else
#include <pthread.h>
#include <sched.h>
#define EXPORT extern "C" __attribute__((visibility("default")))
#define YIELD() sched_yield()
#endif
#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE()
#endif

namespace baseline { extern const Functions functions; }
#if defined(__x86_64__)
namespace avx2 { extern const Functions functions; }
namespace avx512 { extern const Functions functions; }
#endif

// ---- variants: the best first ----------------------------------------------------------------------------------------

static const Functions* const VARIANTS[] = {
#if defined(__x86_64__)
    &avx512::functions, &avx2::functions,
#endif
    &baseline::functions};
static const int64_t COUNT = sizeof(VARIANTS) / sizeof(VARIANTS[0]);

static bool runs_here(int64_t variant) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (variant == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("fma");
    if (variant == 1)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
               __builtin_cpu_supports("bmi");
#endif
    return true;
}

EXPORT int64_t longshort_variants() { return COUNT; }
EXPORT const char* longshort_variant(int64_t variant) { return VARIANTS[variant]->name; }
EXPORT int64_t longshort_runs_here(int64_t variant) { return runs_here(variant); }

// ---- numbers too small for float32's full precision -----------------------------------------------------------------

// On x86-64 subnormal numbers count as 0 while the core computes, in states given to it too, and its caller's setting
// comes back: with gates that let go, products are full of them, and each takes an Intel processor a hundred cycles and
// more.
struct SubnormalsAreZero {
#if defined(__x86_64__)
    const unsigned before = _mm_getcsr();
    SubnormalsAreZero() { _mm_setcsr(before | 0x8040); }  // of what comes out (15), of what goes in (6)
    ~SubnormalsAreZero() { _mm_setcsr(before); }
#endif
};

// ---- threads: the OpenMP runtime that is in the process already, found by cells/core.py ----------------------------

typedef void (*GompParallel)(void (*)(void*), void*, unsigned, unsigned);
typedef void (*KmpFork)(void*, int32_t, void (*)(int32_t*, int32_t*, ...), ...);
typedef void (*KmpPush)(void*, int32_t, int32_t);
typedef int32_t (*KmpThread)(void*);
typedef int (*OmpNumber)();
static GompParallel gomp_parallel;
static KmpFork kmp_fork;
static KmpPush kmp_push;
static KmpThread kmp_thread;
static OmpNumber thread_number, thread_count;

struct Region { Body body; void* data; };
static void gomp_entry(void* data) {
    const Region* region = (const Region*)data;
    SubnormalsAreZero here;
    region->body(region->data, thread_number(), thread_count());
}
static void kmp_entry(int32_t* global, int32_t* bound, ...) {
    __builtin_va_list rest;
    __builtin_va_start(rest, bound);
    gomp_entry(__builtin_va_arg(rest, void*));
    __builtin_va_end(rest);
    (void)global;
}
struct Place { int32_t reserved, flags, reserved2, reserved3; const char* source; };

EXPORT void longshort_threads(void* gomp, void* fork, void* push, void* global, void* number, void* count) {
    gomp_parallel = (GompParallel)gomp, kmp_fork = (KmpFork)fork, kmp_push = (KmpPush)push;
    kmp_thread = (KmpThread)global;
    thread_number = (OmpNumber)number, thread_count = (OmpNumber)count;
}

void run_parallel(Body body, void* data, int64_t threads) {
    Region region = {body, data};
    if (threads <= 1 || !thread_number || !(gomp_parallel || kmp_fork)) {
        SubnormalsAreZero here;
        return body(data, 0, 1);
    }
    if (gomp_parallel) return gomp_parallel(gomp_entry, &region, (unsigned)threads, 0);
    static Place place = {0, 2, 0, 0, ";longshort;run_parallel;1;1;;"};
    kmp_push(&place, kmp_thread(&place), (int32_t)threads);
    kmp_fork(&place, 1, kmp_entry, &region);
}

void wait_at(Barrier* barrier, int32_t team) {
    if (team == 1) return;
    const int32_t round = __atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&barrier->waiting, 1, __ATOMIC_ACQ_REL) == team) {
        __atomic_store_n(&barrier->waiting, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&barrier->round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int spins = 0; __atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE) == round; spins++) {
        PAUSE();
        if (spins > 2000) YIELD();  // more threads than cores: let the others on
    }
}

// ---- memory ----------------------------------------------------------------------------------------------------------

static thread_local float* room;
static thread_local int64_t room_size;

#if !defined(_WIN32)
static pthread_key_t at_exit;  // gives a thread's memory back when it ends; no C++ runtime is needed for it
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void remember(float* memory) {
    pthread_once(&once, [] { pthread_key_create(&at_exit, std::free); });
    pthread_setspecific(at_exit, memory);
}
#else
static void remember(float*) {}
#endif

float* workspace(int64_t floats) {
    if (floats > room_size) {
        std::free(room);
        room_size = floats + floats / 4;
        room = (float*)std::malloc((size_t)room_size * sizeof(float));
        if (!room) std::abort();
        remember(room);
    }
    return room;
}

// For the tests: this thread's memory full of NaN, so that reading what was never written shows.
EXPORT void longshort_poison(int64_t floats) {
    float* memory = workspace(floats);
    for (int64_t i = 0; i < room_size; i++) memory[i] = __builtin_nanf("");
}

// ---- calls -----------------------------------------------------------------------------------------------------------

EXPORT void longshort_recurrent(int64_t variant, int64_t cell, int64_t backward, const Recurrence* call) {
    VARIANTS[variant]->recurrent(cell, backward, call);
}
EXPORT void longshort_memory(int64_t variant, int64_t backward, const Memory* call) {
    VARIANTS[variant]->memory(backward, call);
}
// Does nothing and returns 1 if an input is a part of what the step would overwrite before it reads it.
EXPORT int64_t longshort_memory_step(int64_t variant, const MemoryStep* s) {
    const int64_t N = s->N, K = s->K, V = s->V, heads = s->B * N;
    const struct { const float* x; int64_t size; } inputs[] = {
        {s->q, heads * K}, {s->k, heads * K}, {s->v, heads * V}, {s->i_pre, heads}, {s->f_pre, heads}};
    const struct { const float* x; int64_t size; } outputs[] = {{s->C, heads * K * V}, {s->n, heads * K}, {s->m, heads}};
    for (const auto& in : inputs)
        for (const auto& out : outputs)
            if (in.x < out.x + out.size && out.x < in.x + in.size) return 1;
    Memory call = {s->B, 1, N, K, V, s->threads, 1, s->eps, 0, s->q, s->k, s->v, s->i_pre, s->f_pre};
    call.q_b = call.k_b = N * K, call.q_n = call.k_n = K, call.v_b = N * V, call.v_n = V;
    call.i_b = call.f_b = N, call.i_n = call.f_n = 1;
    call.C0 = s->C0, call.n0 = s->n0, call.m0 = s->m0, call.C = s->C, call.n = s->n, call.m = s->m, call.h = s->h;
    VARIANTS[variant]->memory(0, &call);
    return 0;
}
EXPORT void longshort_product(int64_t variant, const Product* call) { VARIANTS[variant]->product(call); }
EXPORT void longshort_gate(int64_t variant, int64_t which, const float* x, float* y, int64_t n) {
    SubnormalsAreZero here;
    VARIANTS[variant]->gate(which, x, y, n);
}
EXPORT int64_t longshort_version() { return 4; }  // of what the structures mean: core.py's VERSION
EXPORT int64_t longshort_size(int64_t which) {
    constexpr int64_t sizes[] = {sizeof(Recurrence), sizeof(Memory), sizeof(MemoryStep), sizeof(Product)};
    return sizes[which];
}

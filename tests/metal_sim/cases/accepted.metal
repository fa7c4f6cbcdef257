//// float to half
kernel void k(device half* d, constant float& x) {
  d[0] = x;
}

//// float4(half4)
kernel void k(device float4* d, device half4* h) {
  d[0] = float4(h[0]);
}

//// vector constructors of parts
kernel void k(device float4* d) {
  float2 a(1, 2);
  d[0] = float4(a, d[1].zw);
  d[2] = float4(a.x, d[1].yzw);
}

//// vec constructor
kernel void k(device float4* d) {
  d[0] = vec<float, 4>(1.0f);
  d[1] = metal::vec<float, 4>(d[0].xy, 1, 2);
}

//// constructor of a dependent vector
template <typename T>
void f(device T* d) {
  using T2 = vec<T, 2>;
  T2 v = T2(d[0], d[1]);
  d[0] = v.x + v.y;
}
kernel void k(device half* d) {
  f(d);
}

//// typedef of a vector
typedef float2 F2;
kernel void k(device float2* d) {
  d[0] = F2(1.0f, 2.0f);
}

//// static_cast of a vector
kernel void k(device float4* d, device half4* h) {
  d[0] = static_cast<float4>(h[0]);
}

//// swizzle, comparison, select
kernel void k(device float4* d) {
  float4 v = d[0];
  v.xy = v.zw;
  v = select(v, float4(0), v < float4(0.5));
  d[1] = v.wzyx;
}

//// half literals
kernel void k(device half4* d) {
  d[0] = d[0] * 2.0h + half4(1.0h, 2, 3, 4);
}

//// bfloat literals and casts
kernel void k(device bfloat* d, constant float& x) {
  d[0] = 1.5bf;
  d[1] = (bfloat)x;
  d[2] = bfloat(float(d[1]) * x);
}

//// bfloat vectors
kernel void k(device bfloat4* d) {
  float4 v = float4(d[0]);
  d[1] = bfloat4(v * 2.0f);
}

//// structure copied out of constant
struct P {
  int a;
  float b[3];
};
float f(P p) {
  return p.b[0];
}
template <typename T>
T get(constant T* q) {
  T r = q[1];
  return r;
}
kernel void k(device float* d, constant P& p, constant P* q) {
  P x = p;
  const P y = q[1];
  P z{p};
  x = p;
  P t = get(q);
  d[0] = x.b[x.a] + y.a + z.a + f(p) + t.a;
}

//// structure with a structure out of constant
struct P {
  int a;
};
struct Q {
  P p;
  int z;
};
kernel void k(device float* d, constant Q& q) {
  P p = q.p;
  Q r = q;
  Q s{q.p, 3};
  d[0] = p.a + r.z + s.z;
}

//// structure copied through device and threadgroup
struct P {
  int a;
  float b[3];
};
kernel void k(device P* d) {
  threadgroup P s[2];
  P q = d[0];
  s[0] = q;
  d[1] = s[0];
}

//// temporary to a thread reference
struct P {
  int a;
};
int f(thread const P& p) {
  return p.a;
}
kernel void k(device int* d) {
  d[0] = f(P{3});
}

//// number to a thread reference
float f(const thread float& x) {
  return x;
}
kernel void k(device float* d) {
  d[0] = f(1.0f);
}

//// conditional of structures
struct P {
  int a;
};
kernel void k(device int* d) {
  P x{1};
  P y = d[0] ? x : P{2};
  d[1] = y.a;
}

//// pointers in every space
void f(device float* a, threadgroup float* b, constant float* c, thread float* e) {
  b[0] = c[0] + e[0];
  a[0] = b[0];
}
kernel void k(device float* d, constant float* c) {
  threadgroup float s[4];
  float x = 1;
  f(d, s, c, &x);
}

//// several threadgroup variables
kernel void k(device float* d) {
  threadgroup float a[4], b[2][3];
  threadgroup int c;
  c = 1;
  a[0] = c;
  b[1][2] = a[0];
  d[0] = b[1][2];
}

//// reference to a threadgroup array
void f(threadgroup float (&s)[4], uint t) {
  s[t] = t;
}
kernel void k(device float* d, uint t [[thread_index_in_threadgroup]]) {
  threadgroup float s[4];
  f(s, t & 3);
  d[t] = s[t & 3];
}

//// function constants
constant bool f [[function_constant(0)]];
constant int n [[function_constant(1)]];
constant int m = is_function_constant_defined(n) ? 2 * n : 1;
constant float unused = 1;
kernel void k(device float* d, device float* e [[buffer(1), function_constant(f)]]) {
  if (f) e[0] = m;
  d[0] = n;
}

//// simdgroup matrices
kernel void k(device half* a, device half* b, device float* c) {
  simdgroup_half8x8 A, B;
  simdgroup_float8x8 C(0.0f);
  simdgroup_load(A, a, 8);
  simdgroup_load(B, b, 8, ulong2(0, 0), true);
  simdgroup_multiply_accumulate(C, A, B, C);
  C.thread_elements()[0] *= 2;
  simdgroup_store(C, c, 8);
}

//// template kernel with a host name
template <typename T>
[[kernel]] void k(device T* d [[buffer(0)]], uint t [[thread_position_in_grid]]) {
  d[t] = T(t);
}
template [[host_name("k_half")]] [[kernel]] void k<half>(device half*, uint);
template [[host_name("k_float")]] [[kernel]] decltype(k<float>) k<float>;

//// atomics
kernel void k(device atomic_uint* d, device atomic<float>* f) {
  atomic_fetch_add_explicit(d, 1u, memory_order_relaxed);
  atomic_fetch_add_explicit(f, 1.0f, memory_order_relaxed);
}

//// qualified methods
struct S {
  int a;
  S(int x) thread : a(x) {
  }
  int get() const thread {
    return a;
  }
  int get() const constant {
    return a;
  }
};
kernel void k(device int* d, constant S& s) {
  S t(1);
  d[0] = s.get() + t.get();
}

//// multiplication that looks like a pointer
struct S {
  int a;
  S(int x, int y) : a(x + y * x) {
  }
};
kernel void k(device int* d) {
  int a = 2, b = 3;
  S s(a * b, b);
  d[0] = a ? s.a : a * b;
}

//// a name of 64-bit offsets
kernel void k(device float* d, constant int64_t* s, uint3 t [[thread_position_in_grid]]) {
  d[t.x * s[0] + int64_t(t.y) * s[1]] = 1;
}

//// shift by a variable
kernel void k(device uint* d, constant uint& n) {
  d[0] = 1u << n;
}

//// attributes
[[kernel, max_total_threads_per_threadgroup(256)]] void k(device float* d [[buffer(0)]]) {
  [[maybe_unused]] int x = 1;
  d[0] = 1;
}

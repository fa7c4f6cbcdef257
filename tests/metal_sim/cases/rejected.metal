//// device pointer to thread parameter
void f(thread float* p) {
  p[0] = 1;
}
kernel void k(device float* d) {
  f(d);  // <-
}

//// threadgroup pointer to device parameter
void f(device float* p) {
  p[0] = 1;
}
kernel void k(device float* d) {
  threadgroup float s[4];
  f(s);  // <-
}

//// constant pointer to device parameter
void f(const device float* p) {
}
kernel void k(constant float* d) {
  f(d);  // <-
}

//// pointer parameter without a space
float f(float* p) {  // <-
  return p[0];
}
kernel void k(device float* d) {
  float x = 1;
  d[0] = f(&x);
}

//// local pointer without a space
kernel void k(device float* d) {
  float* p = d;  // <-
  p[0] = 1;
}

//// reference parameter without a space
void f(float& x) {  // <-
  x = 1;
}
kernel void k(device float* d) {
  float x;
  f(x);
  d[0] = x;
}

//// local pointer to a vector
kernel void k(device float4* d) {
  float4 x;
  vec<float, 4>* p = &x;  // <-
  d[0] = *p;
}

//// local auto pointer without a space
kernel void k(device float* d) {
  auto* p = d;  // <-
  p[0] = 1;
}

//// member pointer without a space
struct S {
  float* p;  // <-
};
kernel void k(device float* d) {
  d[0] = 1;
}

//// alias of a pointer without a space
using P = float*;  // <-
kernel void k(device float* d) {
  d[0] = 1;
}

//// cast without a space
kernel void k(device float* d) {
  ((float*)d)[0] = 1;  // <-
}

//// return type without a space
float* f(device float* d) {  // <-
  return 0;
}
kernel void k(device float* d) {
  d[0] = 1;
}

//// pointer in a template that nobody uses
template <typename T>
void f(T* p) {  // <-
  p[0] = 1;
}
kernel void k(device float* d) {
  d[0] = 1;
}

//// lambda parameter without a space
kernel void k(device float* d) {
  auto f = [](float& x) { x = 1; };  // <-
  float y;
  f(y);
  d[0] = y;
}

//// loop variable without a space
kernel void k(device float* d) {
  float a[2] = {1, 2};
  for (float& x : a) d[0] = x;  // <-
}

//// cast to another space
kernel void k(device float* d) {
  threadgroup float* p = (threadgroup float*)d;  // <-
  p[0] = 1;
}

//// reinterpret_cast to another space
kernel void k(device float* d) {
  thread float* p = reinterpret_cast<thread float*>(d);  // <-
  p[0] = 1;
}

//// thread reference out of a method of any space
struct S {
  float v[4];
  thread float& at(short i) {
    return v[i];  // <-
  }
};
kernel void k(device float* d) {
  S s;
  d[0] = s.at(0);
}

//// write through constant
kernel void k(constant float* d) {
  d[0] = 1;  // <-
}

//// write through const device
kernel void k(const device float* d) {
  d[0] = 1;  // <-
}

//// structure in constant to thread reference
struct P {
  int a;
};
int f(const thread P& p) {
  return p.a;
}
kernel void k(device int* d, constant P& p) {
  d[0] = f(p);  // <-
}

//// threadgroup variable in a helper
void f() {
  threadgroup float s[4];  // <-
  s[0] = 1;
}
kernel void k(device float* d) {
  f();
}

//// initialised threadgroup variable
kernel void k(device float* d) {
  threadgroup float s = 1;  // <-
  d[0] = s;
}

//// too much threadgroup memory
kernel void k(device float* d) {  // <-
  threadgroup float s[8193];
  s[0] = 1;
  d[0] = s[0];
}

//// double
kernel void k(device float* d) {
  double x = 1;  // <-
  d[0] = x;
}

//// float to bfloat
kernel void k(device bfloat* d, constant float& x) {
  d[0] = x;  // <-
}

//// half to bfloat
kernel void k(device bfloat* d, constant half& x) {
  d[0] = x;  // <-
}

//// bfloat to half
kernel void k(device half* d, constant bfloat& x) {
  d[0] = x;  // <-
}

//// float to bfloat in a template
template <typename T>
void f(device T* d, float x) {
  d[0] = x;  // <-
}
kernel void k(device bfloat* d) {
  f(d, 1.5f);
}

//// min of int and uint
kernel void k(device int* d, uint t [[thread_position_in_grid]]) {
  d[0] = min(d[1], t);  // <-
}

//// max of half and float
kernel void k(device half* d) {
  d[0] = max(d[0], 0.0f);  // <-
}

//// erf
kernel void k(device float* d) {
  d[0] = erf(d[1]);  // <-
}

//// global variable
float g;  // <-
kernel void k(device float* d) {
  d[0] = g;
}

//// constant without a value
constant int g;  // <-
kernel void k(device float* d) {
  d[0] = g;
}

//// array sized by a function constant
constant int n [[function_constant(0)]];
kernel void k(device float* d) {
  float a[n];  // <-
  a[0] = 1;
  d[0] = a[0];
}

//// function constant index twice
constant int n [[function_constant(0)]];
constant int m [[function_constant(0)]];  // <-
kernel void k(device float* d) {
  d[0] = n + m;
}

//// virtual function
struct S {
  virtual int f() {  // <-
    return 1;
  }
};
kernel void k(device int* d) {
  S s;
  d[0] = s.f();
}

//// new
kernel void k(device int* d) {
  thread int* p = new int;  // <-
  d[0] = *p;
}

//// throw
kernel void k(device int* d) {
  if (d[0]) throw 1;  // <-
}

//// goto
kernel void k(device int* d) {
  goto l;  // <-
l:
  d[0] = 1;
}

//// recursion
int f(int n) {  // <-
  return n ? f(n - 1) : 0;
}
kernel void k(device int* d) {
  d[0] = f(3);
}

//// mutual recursion
int g(int n);
int f(int n) {  // <-
  return g(n);
}
int g(int n) {
  return n ? f(n - 1) : 0;
}
kernel void k(device int* d) {
  d[0] = f(3);
}

//// function pointer
void f() {
}
kernel void k(device int* d) {
  auto p = &f;  // <-
  p();
  d[0] = 1;
}

//// static variable
kernel void k(device int* d) {
  static int c = 0;  // <-
  d[0] = c++;
}

//// kernel that returns
kernel int k(device int* d) {  // <-
  return 1;
}

//// parameter without attribute
kernel void k(device int* d, uint t) {  // <-
  d[0] = t;
}

//// unknown attribute
kernel void k(device int* d, uint t [[thread_index_in_warp]]) {  // <-
  d[0] = t;
}

//// attribute on a float
kernel void k(device int* d, float t [[thread_position_in_grid]]) {  // <-
  d[0] = t;
}

//// buffer index twice
kernel void k(device int* d [[buffer(0)]], device int* e [[buffer(0)]]) {  // <-
  d[0] = e[0];
}

//// buffer parameter without a space
kernel void k(float* d [[buffer(0)]]) {  // <-
  d[0] = 1;
}

//// unknown function
kernel void k(device float* d) {
  d[0] = simd_foo(d[0]);  // <-
}

//// 16x16 simdgroup matrix
kernel void k(device float* d) {
  simdgroup_matrix<float, 16, 16> m;  // <-
  simdgroup_load(m, d);
}

//// simdgroup matrix of int
kernel void k(device int* d) {
  simdgroup_matrix<int, 8, 8> m;  // <-
  simdgroup_load(m, d);
}

//// simdgroup_load of another type
kernel void k(device half* d) {
  simdgroup_float8x8 m;
  simdgroup_load(m, d, 8);  // <-
}

//// float4 of three
kernel void k(device float4* d) {
  d[0] = float4(1, 2, 3);  // <-
}

//// float4 = half4
kernel void k(device float4* d, device half4* h) {
  d[0] = h[0];  // <-
}

//// swizzle outside
kernel void k(device float2* d) {
  d[0].x = d[0].z;  // <-
}

//// as_type of another size
kernel void k(device float* d) {
  d[0] = as_type<float>((short)1);  // <-
}

//// missing semicolon
kernel void k(device float* d){d[0] = 1}  // <-

//// header of the host
#include <vector>  // <-
kernel void k(device float* d) {
  d[0] = 1;
}

//// printf
kernel void k(device float* d) {
  printf("x");  // <-
}

//// array of run-time size
kernel void k(device float* d, constant int& n) {
  float a[n];  // <-
  a[0] = 1;
  d[0] = a[0];
}

//// constant shift by the width
kernel void k(device int* d) {
  d[0] = d[1] << 32;  // <-
}

//// variable used before it is set
kernel void k(device float* d) {
  float x;
  d[0] = x;  // <-
}

//// variable set in one branch only
kernel void k(device float* d) {
  float x;
  if (d[1] > 0) x = 1;  // <-
  d[0] = x;
}

//// access of 32 bytes
kernel void k(device ulong4* d) {
  d[0] = d[1];  // <-
}

//// lambda
kernel void k(device int* d) {
  auto f = [](int x) { return x + 1; };  // <-
  d[0] = f(1);
}

/** The reference's own error: submanifold and strided convolutions (encoders.md). */
#include "encoders.h"

/** As in linear.c, of which this is a sum over the cells that are there; fewer terms than taps make it no larger. */
#define LIMIT 2.0

/** One convolution as the page writes it: y[p] = sum over o of W[o]^T x[p + o] (k odd), or x[2p + o] (k = 2). */
static oracle_values convolved(const mr3d_sparse_conv_in *in) {
  const int64_t k = in->k, taps = k * k * k, first = k % 2 ? -(k - 1) / 2 : 0, stride = k % 2 ? 1 : k;
  oracle_values x = oracle_given(in->n, in->c_in, in->x), y = oracle_new(in->n_out, in->c_out);
  oracle_sum s = oracle_sum_new();
  for (int64_t p = 0; p < in->n_out; p++)
    for (int64_t o = 0; o < in->c_out; o++) {
      oracle_sum_begin(&s);
      for (int64_t tap = 0; tap < taps; tap++) {
        const int64_t low = tap % k, middle = tap / k % k, high = tap / k / k, *cell = in->out_cells + 3 * p;
        const bool x_fastest = in->layout == MR3D_KERNEL_X_FASTEST;
        const int64_t row = row_of(in->n, in->cells, stride * cell[0] + first + (x_fastest ? low : high), stride * cell[1] + first + middle,
                                   stride * cell[2] + first + (x_fastest ? high : low));
        for (int64_t i = 0; row >= 0 && i < in->c_in; i++)
          oracle_sum_add(&s, &x, row * in->c_in + i,
                         in->kernel.weight[in->layout == MR3D_KERNEL_OUT_FIRST ? (o * taps + tap) * in->c_in + i : (tap * in->c_in + i) * in->c_out + o]);
      }
      oracle_sum_end(&s, in->kernel.bias != NULL ? &in->kernel.bias[o] : NULL, &y, p * in->c_out + o);
    }
  oracle_sum_free(&s);
  oracle_free(&x);
  return y;
}

typedef struct shape {
  const char *name;
  int64_t k, c_in, c_out, edge;
  mr3d_kernel_layout layout;
} shape;
static const shape shapes[] = {{"submanifold_conv, k = 3", 3, 16, 4, 6, MR3D_KERNEL_X_FASTEST},
                               {"submanifold_conv, k = 7", 7, 6, 3, 6, MR3D_KERNEL_X_FASTEST},
                               {"submanifold_conv, Sonata's", 3, 16, 4, 6, MR3D_KERNEL_OUT_FIRST},
                               {"strided_conv", 2, 16, 8, 7, MR3D_KERNEL_Z_FASTEST}};

static void each(const char *inputs, double *(*draw_x)(int64_t), double *(*draw_w)(int64_t)) {
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    const shape *s = &shapes[i];
    int64_t n, *cells = some_cells(s->edge, 11, &n);
    mr3d_coarse_cells_out coarse;
    mr3d_coarse_cells(&exact, n, cells, 2, &coarse);
    double *x = draw_x(n * s->c_in), *w = draw_w(s->k * s->k * s->k * s->c_in * s->c_out), *b = drawn_heavy("conv/bias", s->c_out, 3);
    const bool strided = s->k == 2;
    const mr3d_sparse_conv_in in = {.n = n, .n_out = strided ? coarse.n : n, .cells = cells, .out_cells = strided ? coarse.cells : cells, .k = s->k, .c_in = s->c_in, .c_out = s->c_out,
                                    .x = x, .layout = s->layout, .kernel = {w, s->layout == MR3D_KERNEL_OUT_FIRST ? b : NULL}};
    double *y = unwritten(in.n_out * in.c_out);
    (strided ? mr3d_strided_conv : mr3d_submanifold_conv)(&exact, &in, y);
    oracle_maximum m = {s->name, inputs};
    oracle_values truth = convolved(&in);
    oracle_measure(&m, &truth, y);
    assert_oracle(&m, LIMIT);
    oracle_free(&truth);
    mr3d_coarse_cells_free(&coarse);
    free(cells);
    free(x);
    free(w);
    free(b);
    free(y);
  }
}

static double *normal_x(int64_t count) { return drawn_normal("conv/x", count, 1); }
static double *normal_w(int64_t count) { return drawn_normal("conv/weight", count, 0.1); }
static double *positive_x(int64_t count) { return drawn_uniform("conv/positive", count, 0, 1); }
static double *positive_w(int64_t count) { return drawn_uniform("conv/positive weight", count, 0, 1); }
static double *heavy_x(int64_t count) { return drawn_heavy("conv/heavy", count, 40); }
static double *heavy_w(int64_t count) { return drawn_heavy("conv/heavy weight", count, 1); }
static double *denormal_x(int64_t count) { return drawn_denormal("conv/denormal", count); }
static double *large_w(int64_t count) { return drawn_normal("conv/large weight", count, 1000); }

static void canonical(void **state) {
  (void)state;
  each("canonical", normal_x, normal_w);
}
static void one_sign(void **state) {
  (void)state;
  each("one sign", positive_x, positive_w);
}
static void denormal(void **state) {
  (void)state;
  each("denormal", denormal_x, large_w);
}
static void random_values(void **state) {
  (void)state;
  each("random", heavy_x, heavy_w);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(canonical), cmocka_unit_test(one_sign), cmocka_unit_test(denormal), cmocka_unit_test(random_values)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}

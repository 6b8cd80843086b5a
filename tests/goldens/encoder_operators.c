/**
 * The point encoders' operators one by one against the golden file of their inputs and outputs: C reference and PyTorch model, written apart from encoders.md,
 * give the same numbers.
 */
#include <math.h>

#include "../suite.h"
#include "mr3d/encoders.h"

#define OF_SCALE 1e-12 /* of the largest value of a tensor: what an operator may differ by */

static mr3d_bundle *file;
static const mr3d_context exact = {.op = &mr3d_reference_operators, .threads = 2};

/* ---- one case: the file's tensors CASE.NAME ---- */

static const mr3d_tensor *tensor_of(const char *test, const char *name) {
  char full[128];
  snprintf(full, sizeof full, "%s.%s", test, name);
  const mr3d_tensor *t = mr3d_bundle_find(file, full);
  if (!t) fail_msg("the golden file has no tensor %s", full);
  return t;
}

static const double *array_of(const char *test, const char *name, int rank, const int64_t *shape) {
  const mr3d_tensor *t = tensor_of(test, name);
  if (t->dtype != MR3D_F64 || t->rank != rank || memcmp(t->shape, shape, (size_t)rank * sizeof *shape) != 0) fail_msg("%s has another type or shape", t->name);
  return t->data;
}

static const int64_t *integers_of(const char *test, const char *name) {
  const mr3d_tensor *t = tensor_of(test, name);
  assert_int_equal(t->dtype, MR3D_I64);
  return t->data;
}

static int64_t number_of(const char *test, const char *name) { return integers_of(test, name)[0]; }
static int64_t rows_of(const char *test, const char *name) { return tensor_of(test, name)->shape[0]; }
static int64_t columns_of(const char *test, const char *name) { return tensor_of(test, name)->shape[1]; }

/* PREFIXweight [out,in], or [out] where `in` is 0, and PREFIXbias [out]. */
static mr3d_affine affine_of(const char *test, const char *prefix, int64_t out, int64_t in) {
  char weight[40], bias[40];
  snprintf(weight, sizeof weight, "%sweight", prefix);
  snprintf(bias, sizeof bias, "%sbias", prefix);
  return (mr3d_affine){array_of(test, weight, in ? 2 : 1, (const int64_t[]){out, in}), array_of(test, bias, SHAPE(out))};
}

/* The answer, `rows` of as many columns as the golden has, against the golden's. */
static void agrees(const char *test, int64_t rows, const double *got) {
  const mr3d_tensor *y = tensor_of(test, "y");
  const double *expected = y->data;
  assert_int_equal(y->dtype, MR3D_F64);
  assert_int_equal(y->shape[0], rows);
  double scale = 0, difference = 0;
  for (int64_t i = 0; i < mr3d_tensor_count(y); i++) {
    const double d = fabs(got[i] - expected[i]);
    scale = fmax(scale, fabs(expected[i]));
    difference = d <= difference ? difference : d; /* NaN wins */
  }
  print_message("  %s: within %.2g of the scale\n", test, difference / scale);
  if (!(difference <= OF_SCALE * scale)) fail_msg("%s differs by %.3g of its scale", test, difference / scale);
}

static void same_integers(const char *test, const char *name, int64_t count, const int64_t *got) {
  assert_int_equal(mr3d_tensor_count(tensor_of(test, name)), count);
  assert_memory_equal(got, integers_of(test, name), (size_t)count * sizeof *got);
}

static double *output_of(const char *test) { return mr3d_allocate(mr3d_tensor_count(tensor_of(test, "y")), sizeof(double)); }

/* ---- operators ---- */

static void z_order(const char *test) {
  const int64_t n = rows_of(test, "cells");
  uint64_t *codes = mr3d_allocate(n, sizeof *codes);
  mr3d_z_order(&exact, number_of(test, "trans") ? MR3D_Z_TRANS : MR3D_Z, n, integers_of(test, "cells"), codes);
  same_integers(test, "codes", n, (const int64_t *)codes);
  free(codes);
}

static void coarse_cells(const char *test) {
  const int64_t n = rows_of(test, "cells");
  mr3d_coarse_cells_out out;
  mr3d_coarse_cells(&exact, n, integers_of(test, "cells"), number_of(test, "stride"), &out);
  same_integers(test, "coarse", 3 * out.n, out.cells);
  same_integers(test, "parent", n, out.parent);
  mr3d_coarse_cells_free(&out);
}

/* Sonata's weights lie outputs first and have a bias; SceneScript's kernel is [taps,in,out]. */
static void submanifold_conv(const char *test) {
  const bool sonata = strstr(test, "/sonata");
  const int64_t n = rows_of(test, "cells"), c_in = columns_of(test, "x"), c_out = columns_of(test, "y"), k = strstr(test, "/k7") ? 7 : 3;
  mr3d_sparse_conv_in in = {.n = n, .n_out = n, .cells = integers_of(test, "cells"), .out_cells = integers_of(test, "cells"), .k = k, .c_in = c_in, .c_out = c_out,
                            .x = array_of(test, "x", SHAPE(n, c_in)), .layout = sonata ? MR3D_KERNEL_OUT_FIRST : MR3D_KERNEL_X_FASTEST};
  if (sonata) in.kernel = (mr3d_affine){array_of(test, "conv.weight", SHAPE(c_out, 3, 3, 3, c_in)), array_of(test, "conv.bias", SHAPE(c_out))};
  else in.kernel.weight = array_of(test, "kernel", SHAPE(k * k * k, c_in, c_out));
  double *y = output_of(test);
  mr3d_submanifold_conv(&exact, &in, y);
  agrees(test, n, y);
  free(y);
}

static void strided_conv(const char *test) {
  const int64_t n = rows_of(test, "cells"), n_out = rows_of(test, "coarse"), c_in = columns_of(test, "x"), c_out = columns_of(test, "y");
  const mr3d_sparse_conv_in in = {.n = n, .n_out = n_out, .cells = integers_of(test, "cells"), .out_cells = integers_of(test, "coarse"), .k = 2, .c_in = c_in, .c_out = c_out,
                                  .x = array_of(test, "x", SHAPE(n, c_in)), .layout = MR3D_KERNEL_Z_FASTEST, .kernel.weight = array_of(test, "kernel", SHAPE(8, c_in, c_out))};
  double *y = output_of(test);
  mr3d_strided_conv(&exact, &in, y);
  agrees(test, n_out, y);
  free(y);
}

static void norm_agrees(const char *test, int64_t groups, void (*norm)(const mr3d_context *, const mr3d_norm_in *, double *)) {
  const int64_t n = rows_of(test, "x"), C = columns_of(test, "x");
  double *y = output_of(test);
  norm(&exact, &(mr3d_norm_in){n, C, groups, 1e-5, array_of(test, "x", SHAPE(n, C)), affine_of(test, "", C, 0)}, y);
  agrees(test, n, y);
  free(y);
}
static void group_norm_sparse(const char *test) { norm_agrees(test, number_of(test, "groups"), mr3d_group_norm_sparse); }
static void group_norm_rows(const char *test) { norm_agrees(test, number_of(test, "groups"), mr3d_group_norm_rows); }
static void layernorm(const char *test) { norm_agrees(test, 0, mr3d_layernorm); }

static void gelu(const char *test) {
  const int64_t n = rows_of(test, "x"), C = columns_of(test, "x");
  double *y = output_of(test);
  mr3d_gelu(&exact, n, C, array_of(test, "x", SHAPE(n, C)), y);
  agrees(test, n, y);
  free(y);
}

static void fourier_features(const char *test) {
  const int64_t n = rows_of(test, "cells");
  double *y = output_of(test);
  assert_int_equal(columns_of(test, "y"), MR3D_FOURIER_FEATURES);
  mr3d_fourier_features(&exact, &(mr3d_fourier_in){n, integers_of(test, "cells"), number_of(test, "scene") ? MR3D_SONATA_NORM_SCENE : MR3D_SONATA_NORM_GRID,
                                                   number_of(test, "reduced_grid_size")}, y);
  agrees(test, n, y);
  free(y);
}

static void patch_attention(const char *test) {
  const int64_t n = rows_of(test, "x"), C = columns_of(test, "x");
  const mr3d_point_order order = number_of(test, "trans") ? MR3D_Z_TRANS : MR3D_Z;
  mr3d_patches_out patches;
  mr3d_patches(&exact, &(mr3d_patches_in){n, integers_of(test, "cells"), 1, &order, 0, 0, number_of(test, "patch")}, &patches);
  double *y = output_of(test);
  mr3d_patch_attention(&exact, &(mr3d_patch_attention_in){n, C, number_of(test, "heads"), array_of(test, "x", SHAPE(n, C)), affine_of(test, "qkv.", 3 * C, C),
                                                          affine_of(test, "proj.", C, C), &patches}, y);
  agrees(test, n, y);
  mr3d_patches_free(&patches);
  free(y);
}

static void grid_pooling(const char *test) {
  const int64_t n = rows_of(test, "cells"), C = columns_of(test, "x"), C_out = columns_of(test, "y");
  mr3d_coarse_cells_out coarse;
  mr3d_coarse_cells(&exact, n, integers_of(test, "cells"), number_of(test, "stride"), &coarse);
  double *y = output_of(test);
  assert_int_equal(coarse.n, rows_of(test, "y"));
  mr3d_grid_pooling(&exact, &(mr3d_grid_pooling_in){n, C, C_out, array_of(test, "x", SHAPE(n, C)), coarse.parent, coarse.n, 1e-5, affine_of(test, "proj.", C_out, C),
                                                    affine_of(test, "norm.0.", C_out, 0)}, y);
  agrees(test, coarse.n, y);
  mr3d_coarse_cells_free(&coarse);
  free(y);
}

static void projector(const char *test) {
  const bool mlp = strstr(test, "/mlp");
  const int64_t n = rows_of(test, "x"), C = columns_of(test, "x"), hidden = columns_of(test, "y"), inner = mlp ? rows_of(test, "point_proj.0.weight") : 0;
  mr3d_projector_in in = {.n = n, .C = C, .inner = inner, .hidden = hidden, .x = array_of(test, "x", SHAPE(n, C)), .kind = mlp ? MR3D_PROJECTOR_MLP : MR3D_PROJECTOR_LINEAR};
  in.first = mlp ? affine_of(test, "point_proj.0.", inner, C) : affine_of(test, "point_proj.", hidden, C);
  if (mlp) in.second = affine_of(test, "point_proj.2.", hidden, inner);
  double *y = output_of(test);
  mr3d_project(&exact, &in, y);
  agrees(test, n, y);
  free(y);
}

/* ---- all cases of an operator ---- */

typedef struct compared {
  const char *operator, *result; /* a case is what has that tensor */
  void (*compare)(const char *test);
} compared;
static const compared operators[] = {
    {"z_order", "codes", z_order},
    {"coarse_cells", "coarse", coarse_cells},
    {"submanifold_conv", "y", submanifold_conv},
    {"strided_conv", "y", strided_conv},
    {"group_norm_sparse", "y", group_norm_sparse},
    {"group_norm_rows", "y", group_norm_rows},
    {"layernorm", "y", layernorm},
    {"gelu", "y", gelu},
    {"fourier_features", "y", fourier_features},
    {"patch_attention", "y", patch_attention},
    {"grid_pooling", "y", grid_pooling},
    {"projector", "y", projector},
};
enum { OPERATORS = sizeof operators / sizeof *operators };

/* OPERATOR/CASE.NAME, taken apart. */
typedef struct place {
  char operator[32], test[64], name[32];
} place;

static place place_of(const char *tensor) {
  place p;
  const char *slash = strchr(tensor, '/'), *point = slash ? strchr(slash, '.') : NULL;
  if (!point) fail_msg("%s is no tensor OPERATOR/CASE.NAME", tensor);
  snprintf(p.operator, sizeof p.operator, "%.*s", (int)(slash - tensor), tensor);
  snprintf(p.test, sizeof p.test, "%.*s", (int)(point - tensor), tensor);
  snprintf(p.name, sizeof p.name, "%s", point + 1);
  return p;
}

static void agrees_with_pytorch_on_every_case(void **state) {
  const compared *op = *state;
  int cases = 0;
  for (int i = 0; i < mr3d_bundle_count(file); i++) {
    const place p = place_of(mr3d_bundle_at(file, i)->name);
    if (strcmp(p.operator, op->operator) != 0 || strcmp(p.name, op->result) != 0) continue;
    op->compare(p.test);
    cases++;
  }
  assert_true(cases > 1);
}

static void no_operator_of_the_file_is_left_out(void **state) {
  (void)state;
  for (int i = 0; i < mr3d_bundle_count(file); i++) {
    const place p = place_of(mr3d_bundle_at(file, i)->name);
    int op = 0;
    while (op < OPERATORS && strcmp(operators[op].operator, p.operator) != 0) op++;
    if (op == OPERATORS) fail_msg("%s belongs to no operator that is compared", mr3d_bundle_at(file, i)->name);
  }
}

static int open_file(void **state) {
  (void)state;
  char path[4096];
  mr3d_error error = {0};
  snprintf(path, sizeof path, "%s/encoder_operators.safetensors.gz", committed_set());
  if (mr3d_safetensors_open(path, (uint64_t)1 << 28, &file, &error) != MR3D_OK) fail_msg("%s", error.message);
  return 0;
}

static int close_file(void **state) {
  (void)state;
  mr3d_bundle_free(&file);
  return 0;
}

int main(void) {
  struct CMUnitTest tests[OPERATORS + 1] = {cmocka_unit_test(no_operator_of_the_file_is_left_out)};
  char names[OPERATORS][64];
  for (int i = 0; i < OPERATORS; i++) {
    snprintf(names[i], sizeof names[i], "%s_agrees_with_pytorch_on_every_case", operators[i].operator);
    tests[i + 1] = (struct CMUnitTest){.name = names[i], .test_func = agrees_with_pytorch_on_every_case, .initial_state = (void *)(uintptr_t)&operators[i]};
  }
  return cmocka_run_group_tests(tests, open_file, close_file);
}

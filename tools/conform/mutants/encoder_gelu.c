/** P34: the encoder's and the projector's GELU, by another formula or left out. */
#include <math.h>
#include <stdlib.h>

#include "mutants_internal.h"

static void by(double (*f)(double), int64_t count, const double *x, double *y) {
  for (int64_t i = 0; i < count; i++) y[i] = f(x[i]);
}

static double tanh_formula(double x) { return x / 2 * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x))); }
static double sigmoid_formula(double x) { return x / (1 + exp(-1.702 * x)); }
static double rectified(double x) { return fmax(x, 0); }
static double as_it_is(double x) { return x; }

#define GELU(name, f)                                                                                   \
  static void name(const mr3d_context *context, int64_t n, int64_t C, const double *x, double *y) { \
    (void)context;                                                                                      \
    by(f, n *C, x, y);                                                                                  \
  }
GELU(by_tanh, tanh_formula)
GELU(by_sigmoid, sigmoid_formula)
GELU(as_relu, rectified)
GELU(missing, as_it_is)

/** The projector with another activation; the encoder keeps its own. */
static void project_with(void (*gelu)(const mr3d_context *, int64_t, int64_t, const double *, double *), const mr3d_context *context, const mr3d_projector_in *in, double *y) {
  mr3d_operators changed = *context->op;
  mr3d_context inner = *context;
  changed.gelu = gelu;
  inner.op = &changed;
  mr3d_project(&inner, in, y);
}
static void project_without(const mr3d_context *context, const mr3d_projector_in *in, double *y) { project_with(missing, context, in, y); }
static void project_by_relu(const mr3d_context *context, const mr3d_projector_in *in, double *y) { project_with(as_relu, context, in, y); }

static const mr3d_mutant entries[] = {
    {"encoder-gelu", "tanh", "GELU is the tanh formula instead of the exact one", "encode_points", {.gelu = by_tanh}},
    {"encoder-gelu", "sigmoid", "GELU is x sigmoid(1.702 x) instead of the exact one", "encode_points", {.gelu = by_sigmoid}},
    {"encoder-gelu", "relu", "ReLU stands where GELU should", "encode_points", {.gelu = as_relu}},
    {"encoder-gelu", "projector-without", "the mlp projector has no GELU between its matrices", "encode_points", {.project = project_without}},
    {"encoder-gelu", "projector-relu", "the mlp projector has a ReLU between its matrices", "encode_points", {.project = project_by_relu}},
};
const mr3d_mutant_set mr3d_mutants_encoder_gelu = MR3D_MUTANT_SET(entries);

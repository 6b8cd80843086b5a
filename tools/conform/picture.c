/** A failing answer seen in units of the noise that its tier may have, and its distance from other answers. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "diagnose_internal.h"

#define CAP 1000.0          /* one wild element is no more than this many units */
#define EXPLAINED_UNITS 4.0 /* root mean square distance to the mistake */
#define EXPLAINED_PART 0.05 /* of the squared distance to the reference that may remain */

/** Noise of a row from the runs that the judge made, or a rough one: 16 roundings of the row's size. */
static double row_noise(const mr3d_scene *s, const mr3d_output *output, int64_t row) {
  double squares = 0, size = 0;
  int n = 0;
  for (int r = 0; r < MR3D_MANY_RUNS; r++) {
    const float *errors = mr3d_emulated_errors(&s->truth->runs[r], output->expected);
    if (!errors) continue;
    n++;
    for (int64_t i = row * output->cols; i < (row + 1) * output->cols; i++) squares += (double)errors[i] * errors[i];
  }
  for (int64_t c = 0; c < output->cols; c++) size += output->ref[row * output->cols + c] * output->ref[row * output->cols + c];
  size = sqrt(size / (double)output->cols);
  double own = n ? sqrt(squares / (double)n / (double)output->cols) * (s->tier == MR3D_FP64 ? ldexp(1, -MR3D_FP64_COARSER) : 1) : 16 * output->units.u * size;
  return isfinite(own) ? own + output->units.u * size : 16 * output->units.u * size;
}

/** Not below the row's mean: what a mistake puts into an element is as noisy as what else stands in the row. */
static void add_noise(const mr3d_scene *s, mr3d_picture *p) {
  const mr3d_output *output = &p->output;
  p->noise = mr3d_allocate(output->rows * output->cols, sizeof *p->noise);
  for (int64_t r = 0; r < output->rows; r++) {
    double noise = output->scale ? 0 : row_noise(s, output, r);
    for (int64_t i = r * output->cols; i < (r + 1) * output->cols && output->scale; i++) noise += output->scale[i] * output->scale[i] / (double)output->cols;
    if (output->scale) noise = sqrt(noise);
    for (int64_t i = r * output->cols; i < (r + 1) * output->cols; i++) p->noise[i] = (output->scale ? fmax(output->scale[i], noise) : noise) + 1e-300;
  }
}

static bool same_shape(const mr3d_tensor *a, const mr3d_tensor *b) {
  if (a->rank != b->rank) return false;
  for (int i = 0; i < a->rank; i++)
    if (a->shape[i] != b->shape[i]) return false;
  return true;
}

bool mr3d_comparable(const mr3d_tensor *a, const mr3d_tensor *b) {
  return same_shape(a, b) && mr3d_dtype_is_float(a->dtype) == mr3d_dtype_is_float(b->dtype) && (mr3d_dtype_is_float(a->dtype) || a->dtype == b->dtype);
}

void mr3d_scene_open(mr3d_scene *s) {
  s->pictures = mr3d_allocate(mr3d_bundle_count(s->answer), sizeof *s->pictures);
  for (int i = 0; i < mr3d_bundle_count(s->answer); i++) {
    mr3d_picture *p = &s->pictures[s->n_pictures++];
    p->got = mr3d_bundle_at(s->answer, i);
    p->name = p->got->name;
    p->expected = s->reference ? mr3d_bundle_find(s->reference, p->name) : NULL;
    p->comparable = p->expected && mr3d_comparable(p->got, p->expected);
    p->floating = mr3d_dtype_is_float(p->got->dtype);
    if (!p->comparable || !p->floating) continue;
    mr3d_output_open(s->truth, p->expected, p->got, &p->output);
    mr3d_output_widen(&p->output);
    add_noise(s, p);
  }
}

void mr3d_scene_close(mr3d_scene *s) {
  for (int i = 0; i < s->n_pictures; i++) {
    free(s->pictures[i].noise);
    mr3d_output_close(&s->pictures[i].output);
  }
  free(s->pictures);
}

bool mr3d_distance_explains(const mr3d_distance *d) {
  return !d->impossible && d->to_reference > 0 && sqrt(d->to_mistake / (double)d->n) <= EXPLAINED_UNITS && d->to_mistake <= EXPLAINED_PART * d->to_reference;
}

double mr3d_units_of(double difference, double noise) {
  double d = fabs(difference) / noise;
  return d <= CAP ? d : CAP; /* a NaN too */
}

/** The same NaN or infinity is no distance. */
static bool alike(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

/** Of padding only the finiteness is judged. */
static double units_apart(bool padding, double a, double b, double noise) {
  if (padding) return !isfinite(a) != !isfinite(b) ? CAP : 0;
  return alike(a, b) ? 0 : mr3d_units_of(a - b, noise);
}

static double square(double x) { return x * x; }

static void add_floats(const mr3d_scene *s, const mr3d_picture *p, const double *mutant, bool touched_only, mr3d_distance *d) {
  const mr3d_output *o = &p->output;
  for (int64_t r = 0; r < o->rows; r++) {
    double to_mistake = 0, to_reference = 0, plain_to_mistake = 0, plain_to_reference = 0;
    const bool padding = o->skip && o->skip[r];
    bool touched = !touched_only;
    if (strcmp(p->name, "hidden") == 0 && !mr3d_trial_has(s->trial, r % o->per_head)) continue;
    for (int64_t i = r * o->cols; i < (r + 1) * o->cols; i++) {
      double b = units_apart(padding, o->got[i], o->ref[i], p->noise[i]);
      to_mistake += square(units_apart(padding, o->got[i], mutant[i], p->noise[i]));
      to_reference += square(b);
      touched = touched || b > MR3D_VISIBLE || units_apart(padding, mutant[i], o->ref[i], p->noise[i]) > MR3D_VISIBLE;
      if (padding || !isfinite(o->got[i] - mutant[i]) || !isfinite(o->got[i] - o->ref[i])) continue;
      plain_to_mistake += square(o->got[i] - mutant[i]);
      plain_to_reference += square(o->got[i] - o->ref[i]);
    }
    if (!touched) continue;
    d->to_mistake += to_mistake;
    d->to_reference += to_reference;
    d->plain_to_mistake += plain_to_mistake;
    d->plain_to_reference += plain_to_reference;
    d->n += o->cols;
  }
}

/** Integers, and floats where no reference gives a noise: equal, within a tolerance of the row's largest value, or CAP units apart. */
static void add_exact(const mr3d_tensor *got, const mr3d_tensor *mutant, const mr3d_tensor *reference, double tolerance, mr3d_distance *d) {
  int64_t count = mr3d_tensor_count(got), cols = got->rank > 0 && count > 0 ? got->shape[got->rank - 1] : 1;
  double *values = mr3d_allocate(3 * count, sizeof *values), *a = values, *b = values + count, *c = values + 2 * count, largest = 0;
  mr3d_tensor_to_double(got, a);
  mr3d_tensor_to_double(mutant, b);
  if (reference) mr3d_tensor_to_double(reference, c);
  for (int64_t i = 0; i < count; i++) {
    if (i % cols == 0) largest = 0;
    for (int64_t k = i; k < i + cols && i % cols == 0; k++) largest = fmax(largest, fabs(b[k]));
    double to_mistake = alike(a[i], b[i]) || fabs(a[i] - b[i]) <= tolerance * largest ? 0 : CAP, to_reference = reference && a[i] == c[i] ? 0 : CAP;
    if (reference && to_reference == 0 && b[i] == c[i]) continue;
    d->to_mistake += to_mistake * to_mistake;
    d->to_reference += to_reference * to_reference;
    d->n++;
  }
  free(values);
}

/** Of the row's largest value, where no reference says how noisy it is: a rotation by a thousand radians, or some roundings of a narrow type. */
static double tolerance_of(mr3d_tier tier) {
  mr3d_units units = mr3d_tier_units(tier);
  return units.narrow ? 64 * units.u : 4096 * units.u;
}

static mr3d_distance distance_over(const mr3d_scene *s, const mr3d_bundle *mutant, bool touched_only) {
  mr3d_distance d = {0};
  for (int i = 0; i < s->n_pictures; i++) {
    const mr3d_picture *p = &s->pictures[i];
    const mr3d_tensor *tensor = mr3d_bundle_find(mutant, p->name);
    if (!tensor || !mr3d_comparable(p->got, tensor)) {
      d.impossible = true;
      return d;
    }
    if (!p->comparable) d.to_reference += CAP * CAP, d.n++; /* another shape, perhaps without elements */
    if (p->comparable && p->floating) add_floats(s, p, tensor->data, touched_only, &d);
    else add_exact(p->got, tensor, p->comparable ? p->expected : NULL, p->floating ? tolerance_of(s->tier) : 0, &d);
  }
  return d;
}

mr3d_distance mr3d_distance_to(const mr3d_scene *s, const mr3d_bundle *mutant) {
  mr3d_distance d = distance_over(s, mutant, true);
  return d.impossible || d.n > 0 ? d : distance_over(s, mutant, false); /* a bias, below the noise of every element */
}

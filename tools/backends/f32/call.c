/* A request taken apart: types, shapes and values checked, tensors in the form that the operators compute with. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "f32.h"

/* ---- memory and refusals ---- */

struct block {
  struct block *next;
  max_align_t data[];
};

void *scratch(call *c, int64_t count, size_t size) {
  struct block *b = (uint64_t)count < (SIZE_MAX - sizeof *b) / size ? calloc(1, sizeof *b + (size_t)count * size) : NULL;
  if (!b) refuse(c, "no memory for %lld elements of %zu bytes", (long long)count, size);
  b->next = c->blocks;
  c->blocks = b;
  return b->data;
}

void *keep(call *c, void *data) {
  for (struct block **b = &c->blocks; *b; b = &(*b)->next)
    if ((*b)->data == data) {
      *b = (*b)->next;
      return data;
    }
  abort(); /* not from scratch */
}

void release(void *data) {
  if (data) free((char *)data - offsetof(struct block, data));
}

void refuse(call *c, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(c->message, sizeof c->message, format, arguments);
  va_end(arguments);
  longjmp(c->refused, 1);
}

/* ---- tensors ---- */

static float from_half(uint16_t code) {
  uint32_t sign = (uint32_t)(code & 0x8000) << 16, magnitude = code & 0x7FFF;
  if (magnitude >= 0x7C00) return magnitude == 0x7C00 ? (sign ? -INFINITY : INFINITY) : NAN;
  float value = ldexpf(magnitude < 0x400 ? (float)magnitude : (float)(0x400 | (magnitude & 0x3FF)),
                       magnitude < 0x400 ? -24 : (int)(magnitude >> 10) - 25);
  return sign ? -value : value;
}

static float from_bfloat(uint16_t code) {
  uint32_t bits = (uint32_t)code << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

bool to_floats(const char *dtype, const void *data, int64_t count, float *out) {
  if (strcmp(dtype, "F32") == 0) memcpy(out, data, (size_t)count * 4);
  else if (strcmp(dtype, "F64") == 0)
    for (int64_t i = 0; i < count; i++) out[i] = (float)((const double *)data)[i];
  else if (strcmp(dtype, "BF16") == 0)
    for (int64_t i = 0; i < count; i++) out[i] = from_bfloat(((const uint16_t *)data)[i]);
  else if (strcmp(dtype, "F16") == 0)
    for (int64_t i = 0; i < count; i++) out[i] = from_half(((const uint16_t *)data)[i]);
  else
    return false;
  return true;
}

static const char *tier_type(const call *c) {
  return strcmp(c->request->tier, "bf16") == 0 ? "BF16" : strcmp(c->request->tier, "fp16") == 0 ? "F16" : "F32";
}

static int index_of(call *c, const char *name) {
  const char *there;
  for (int i = 0; c->request->tensor_at(c->request, i, &there); i++)
    if (strcmp(there, name) == 0) return i;
  return -1;
}

int rank_of(call *c, const char *name) {
  const DLTensor *t = c->request->tensor(c->request, name);
  return t ? t->ndim : -1;
}

void ignore(call *c, const char *name) {
  int i = index_of(c, name);
  if (i >= 0) c->taken[i] = true;
}

/* "[1,14,786,64]" */
static const char *shape_text(const DLTensor *t, char text[200]) {
  int n = sprintf(text, "[");
  for (int a = 0; a < t->ndim; a++) n += sprintf(text + n, "%s%lld", a ? "," : "", (long long)t->shape[a]);
  strcpy(text + n, "]");
  return text;
}

/* Binds the letters of `shape` to the tensor's sizes, or says in what the two differ. */
static void fit(call *c, const char *name, const char *shape, const DLTensor *t) {
  bool any = *shape == '.';
  int rank = (int)strlen(shape + any), first = t->ndim - rank;
  char text[200], expected[200] = "", why[200] = "";
  bool fits = any ? first >= 0 : first == 0;
  for (int a = 0; a < rank; a++) {
    const int letter = (unsigned char)shape[any + a];
    char one[64] = {(char)letter, 0};
    if (letter >= '0' && letter <= '9') fits = fits && t->shape[first + a] == letter - '0';
    else if (c->size[letter] >= 0) {
      snprintf(one, sizeof one, "%lld", (long long)c->size[letter]);
      if (fits && t->shape[first + a] != c->size[letter]) {
        snprintf(why, sizeof why, ", as %.150s has it", c->said_by[letter]);
        fits = false;
      }
    }
    snprintf(expected + strlen(expected), sizeof expected - strlen(expected), "%s%s", a ? "," : any ? "..," : "", one);
  }
  if (!fits) refuse(c, "%s has shape %s, expected [%s]%s", name, shape_text(t, text), expected, why);
  for (int a = 0; a < rank; a++) {
    const int letter = (unsigned char)shape[any + a];
    if (c->size[letter] < 0) c->size[letter] = t->shape[first + a], c->said_by[letter] = name;
  }
}

void all_finite(call *c, const char *name, const float *values, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (!isfinite(values[i]))
      refuse(c, "%s holds %g at flat index %lld; every value must be finite", name, (double)values[i], (long long)i);
}

static void wrong_type(call *c, const char *name, const char *found, const char *expected) {
  refuse(c, "%s has type %s, expected %s", name, found, expected);
}

const array *may(call *c, const char *name, element wanted, const char *shape) {
  const DLTensor *t = c->request->tensor(c->request, name);
  if (!t) return NULL;
  ignore(c, name);
  const char *stored = c->request->dtype(c->request, name);
  fit(c, name, shape, t);
  array *a = scratch(c, 1, sizeof *a);
  a->rank = t->ndim;
  int64_t count = 1;
  for (int d = 0; d < t->ndim; d++) count *= a->shape[d] = t->shape[d];
  switch (wanted) {
  case FLOAT: case TABLE: {
    const bool float32 = strcmp(stored, "F32") == 0;
    if (wanted == FLOAT ? strcmp(stored, tier_type(c)) != 0 : !float32 && strcmp(stored, "F64") != 0)
      wrong_type(c, name, stored, wanted == FLOAT ? tier_type(c) : "F32 or F64");
    a->f = t->data;
    if (!float32) to_floats(stored, t->data, count, (float *)(a->f = scratch(c, count, sizeof(float))));
    all_finite(c, name, a->f, count);
    break;
  }
  case COORDS: {
    double *values = scratch(c, count, sizeof *values);
    for (int64_t i = 0; i < count; i++) {
      if (strcmp(stored, "I64") == 0) values[i] = (double)((const int64_t *)t->data)[i];
      else if (strcmp(stored, "F32") == 0) values[i] = ((const float *)t->data)[i];
      else if (strcmp(stored, "F64") == 0) values[i] = ((const double *)t->data)[i];
      else wrong_type(c, name, stored, "I64, F32 or F64");
    }
    a->d = values;
    break;
  }
  case WHOLE: case ZERO_ONE:
    if (strcmp(stored, "I64") != 0) wrong_type(c, name, stored, "I64");
    a->i = t->data;
    for (int64_t i = 0; wanted == ZERO_ONE && i < count; i++)
      if (a->i[i] != 0 && a->i[i] != 1)
        refuse(c, "%s holds %lld at flat index %lld, expected 0 or 1", name, (long long)a->i[i], (long long)i);
    break;
  case TRUTH:
    if (strcmp(stored, "BOOL") != 0) wrong_type(c, name, stored, "BOOL");
    a->b = t->data;
    break;
  }
  return a;
}

const array *need(call *c, const char *name, element wanted, const char *shape) {
  const array *a = may(c, name, wanted, shape);
  if (!a) refuse(c, "%s needs the tensor %s", c->request->op, name);
  return a;
}

void only_these(call *c) {
  const char *name;
  for (int i = 0; c->request->tensor_at(c->request, i, &name); i++)
    if (!c->taken[i]) refuse(c, "%s takes no tensor %s", c->request->op, name);
}

/* ---- metadata and options ---- */

int64_t whole(call *c, const char *key, int64_t least, int64_t absent) {
  const char *text = c->request->metadata(c->request, key);
  if (!text && absent >= least) return absent;
  if (!text) refuse(c, "%s needs the metadata %s", c->request->op, key);
  char *end;
  errno = 0;
  long long value = strtoll(text, &end, 10);
  if (end == text || *end || errno || !(isdigit((unsigned char)*text) || *text == '-'))
    refuse(c, "%s is \"%.40s\", expected a whole number", key, text);
  if (value < least) refuse(c, "%s is %lld, expected at least %lld", key, value, (long long)least);
  return value;
}

const char *word(call *c, const char *key) {
  const char *text = c->request->metadata(c->request, key);
  if (!text) refuse(c, "%s needs the metadata %s", c->request->op, key);
  return text;
}

void need_option(call *c, const char *key, double value) {
  if (value == 0) refuse(c, "%s needs %s in the configuration", c->request->op, key);
}

/* ---- outputs ---- */

static void *out(call *c, const char *name, const char *stored, int rank, const int64_t *shape) {
  DLTensor *t = c->reply->output(c->reply, name, stored, rank, shape);
  if (!t) refuse(c, "no memory for the output %s", name);
  return t->data;
}

float *out_floats(call *c, const char *name, int rank, const int64_t *shape) { return out(c, name, "F32", rank, shape); }
int64_t *out_wholes(call *c, const char *name, int rank, const int64_t *shape) { return out(c, name, "I64", rank, shape); }
uint8_t *out_truths(call *c, const char *name, int rank, const int64_t *shape) { return out(c, name, "BOOL", rank, shape); }

/* ---- the call ---- */

/* ---- traces ---- */

/* Hosts of the first version have no such field. */
static bool can_trace(const call *c) {
  const mr3d_backend_reply *reply = c->reply;
  return reply->struct_size >= offsetof(mr3d_backend_reply, trace) + sizeof reply->trace;
}

static const char *point_name(const call *c, const char *point, char name[64]) {
  if (c->layer < 0) snprintf(name, 64, "model.%s", point);
  else snprintf(name, 64, "%lld.%s", (long long)c->layer, point);
  return name;
}

bool wants_point(call *c, const char *point) {
  char name[64];
  return can_trace(c) && c->reply->wants(c->reply, point_name(c, point, name));
}

static void trace_as(call *c, const char *point, const char *dtype, int rank, const int64_t *shape, const void *values) {
  char name[64];
  if (can_trace(c)) c->reply->trace(c->reply, point_name(c, point, name), dtype, rank, shape, values);
}

void trace_floats(call *c, const char *point, int rank, const int64_t *shape, const float *values) { trace_as(c, point, "F32", rank, shape, values); }
void trace_wholes(call *c, const char *point, int rank, const int64_t *shape, const int64_t *values) { trace_as(c, point, "I64", rank, shape, values); }
void trace_truths(call *c, const char *point, int rank, const int64_t *shape, const uint8_t *values) { trace_as(c, point, "BOOL", rank, shape, values); }

static int attempt(call *c, op_function op) {
  if (setjmp(c->refused) != 0) {
    abandon(c);
    return c->reply->refuse(c->reply, c->message);
  }
  c->taken = scratch(c, c->request->n_tensors + 1, sizeof *c->taken);
  parse_options(c);
  op(c);
  return 0;
}

int run_call(state *s, const mr3d_backend_request *request, mr3d_backend_reply *reply, op_function op) {
  call c = {.request = request, .reply = reply, .state = s};
  memset(c.size, -1, sizeof c.size);
  int status = attempt(&c, op);
  for (struct block *b = c.blocks, *next; b; b = next) next = b->next, free(b);
  return status;
}

/*
 * A backend in plain C11: one file, no line of the suite's, no library but C's own. It shows how little the protocol (docs/protocol.md) needs.
 *
 *   cc -std=c11 -O2 -o plain plain.c -lm
 *   mr3d check --backend exec:./plain
 *
 * It offers rmsnorm, linear and rope1d at fp64 and fp32, computes in double and answers in F64, which is always allowed. It checks the options that
 * it uses, and the spelling of all. Like the frames, the machine must be little-endian. Exit status: 0 after bye, 1 where the suite breaks the protocol.
 */
#include <ctype.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_AXES = 8, DEEPEST = 64 };
static const uint64_t largest_frame = (uint64_t)4 << 30;
static const int64_t largest_whole = (int64_t)1 << 53; /* that JSON's numbers hold exactly */

/* ---- memory, and the two ways to say no ---- */

static struct block {
  struct block *next;
  max_align_t data[];
} *blocks;

static _Noreturn void stop(const char *why) {
  fprintf(stderr, "plain: %s\n", why);
  exit(1);
}

/* Zeroed memory that lives until the frame is answered. */
static void *take(uint64_t size) {
  struct block *b = size < SIZE_MAX - sizeof *b ? calloc(1, sizeof *b + (size_t)size) : NULL;
  if (!b) stop("out of memory");
  b->next = blocks;
  blocks = b;
  return b->data;
}

static void forget_all(void) {
  for (struct block *next; blocks; blocks = next) next = blocks->next, free(blocks);
}

static jmp_buf refused;
static char message[500];

/* The request breaks a rule: it is answered with an error, and the conversation goes on. */
static _Noreturn void refuse(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  longjmp(refused, 1);
}

/* ---- JSON ---- */

typedef struct json {
  char kind; /* { [ " t f n, and 0 for a number */
  char *key; /* of an object's member */
  char *text;
  double number;
  struct json *first, *next;
} json;

static char *at; /* the reader's place in a text that ends with 0 and that it may change */

static void skip_blanks(void) { at += strspn(at, " \t\n\r"); }

static unsigned read_code(void) { /* of \u0041 and of pairs as \ud83d\ude00; at stands behind the u */
  unsigned code = 0, low = 0;
  if (strspn(at, "0123456789abcdefABCDEF") < 4 || sscanf(at, "%4x", &code) != 1) return 0;
  at += 4;
  if (code >> 10 == 0x36 && sscanf(at, "\\u%4x", &low) == 1 && low >> 10 == 0x37) at += 6, code = 0x10000 + ((code & 0x3FF) << 10 | (low & 0x3FF));
  return code;
}

/* Reads a string in place: what it stands for is never longer than how it is written. NULL: it is none. */
static char *read_string(void) {
  char *const text = ++at, *to = text;
  while (*at != '"') {
    if ((unsigned char)*at < ' ') return NULL;
    if (*at != '\\') {
      *to++ = *at++;
      continue;
    }
    static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    const char letter = *++at, *known = letter ? strchr(letters, letter) : NULL;
    if (!known && letter != 'u') return NULL;
    at++;
    if (known) {
      *to++ = meant[known - letters];
      continue;
    }
    const unsigned code = read_code();
    if (code == 0) return NULL;
    if (code < 0x80) *to++ = (char)code;
    else if (code < 0x800) *to++ = (char)(0xC0 | code >> 6);
    else if (code < 0x10000) *to++ = (char)(0xE0 | code >> 12);
    else *to++ = (char)(0xF0 | code >> 18), *to++ = (char)(0x80 | (code >> 12 & 0x3F));
    if (code >= 0x800) *to++ = (char)(0x80 | (code >> 6 & 0x3F));
    if (code >= 0x80) *to++ = (char)(0x80 | (code & 0x3F));
  }
  *to = 0, at++;
  return text;
}

static json *read_value(int depth) { /* NULL: there is none */
  json *v = take(sizeof *v), **last = &v->first;
  skip_blanks();
  if (*at == '-' || isdigit((unsigned char)*at)) {
    char *end, *const behind = at + strspn(at, "+-.0123456789eE");
    v->number = strtod(at, &end);
    at = end;
    return end == behind ? v : NULL;
  }
  for (const char *const *word = (const char *const[]){"true", "false", "null", NULL}; *word; word++)
    if (strncmp(at, *word, strlen(*word)) == 0) {
      v->kind = *at;
      at += strlen(*word);
      return v;
    }
  v->kind = *at;
  if (*at == '"') return (v->text = read_string()) ? v : NULL;
  if ((*at != '{' && *at != '[') || depth == 0) return NULL;
  const char close = *at == '{' ? '}' : ']';
  at++, skip_blanks();
  while (*at != close) {
    char *key = NULL;
    if (close == '}') {
      if (*at != '"' || !(key = read_string())) return NULL;
      skip_blanks();
      if (*at++ != ':') return NULL;
    }
    json *item = read_value(depth - 1);
    if (!item) return NULL;
    item->key = key;
    for (const json *other = v->first; key && other; other = other->next)
      if (strcmp(other->key, key) == 0) return NULL; /* twice */
    *last = item, last = &item->next;
    skip_blanks();
    if (*at == close) break;
    if (*at++ != ',') return NULL;
    skip_blanks();
    if (*at == close) return NULL;
  }
  at++;
  return v;
}

/* An object from a text, which is copied; NULL: it is none. */
static json *read_object(const char *text, size_t size) {
  at = memcpy(take(size + 1), text, size);
  json *v = read_value(DEEPEST);
  skip_blanks();
  return v && *at == 0 && v->kind == '{' ? v : NULL;
}

static const json *member(const json *object, const char *key) {
  const json *m = object ? object->first : NULL;
  while (m && strcmp(m->key, key) != 0) m = m->next;
  return m;
}

static const char *text_of(const json *object, const char *key) { /* NULL: there is none */
  const json *m = member(object, key);
  return m ? m->text : NULL;
}

/* ---- frames in ---- */

typedef struct tensor {
  const char *name, *dtype;
  int rank;
  int64_t shape[MOST_AXES], count;
  const unsigned char *data;
  int taken; /* by the operator */
} tensor;

static const json *meta; /* of the frame at hand */
static tensor *tensors;
static int n_tensors;

static const struct {
  const char *name;
  int64_t size;
} dtypes[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"U16", 2}, {"I16", 2}, {"U32", 4},     {"I32", 4},    {"U64", 8},
              {"I64", 8},  {"F16", 2}, {"BF16", 2}, {"F32", 4}, {"F64", 8}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};

/* A whole number of 0 .. most. */
static int64_t whole(const json *v, int64_t most) {
  if (!v || v->kind != 0 || !(v->number >= 0 && v->number <= (double)most) || v->number != floor(v->number)) stop("a header holds no whole number where one belongs");
  return (int64_t)v->number;
}

/* One entry of the header. Returns its size in bytes. */
static int64_t read_entry(const json *entry, const unsigned char *data, int64_t data_size, tensor *t) {
  const json *offsets = member(entry, "data_offsets"), *shape = member(entry, "shape");
  t->name = entry->key, t->dtype = text_of(entry, "dtype");
  int64_t size = 0;
  for (size_t i = 0; t->dtype && i < sizeof dtypes / sizeof *dtypes; i++)
    if (strcmp(dtypes[i].name, t->dtype) == 0) size = dtypes[i].size;
  if (size == 0 || !shape || shape->kind != '[' || !offsets || offsets->kind != '[') stop("a header's entry lacks dtype, shape or data_offsets");
  const json *begin = offsets->first, *end = begin ? begin->next : NULL;
  const int64_t to = whole(end, data_size), from = whole(begin, to);
  t->data = data + from, t->count = 1;
  for (const json *axis = shape->first; axis; axis = axis->next) {
    if (t->rank == MOST_AXES) stop("a tensor has more than 8 axes");
    const int64_t length = t->shape[t->rank++] = whole(axis, largest_whole);
    if (length > 0 && t->count > largest_whole / length) stop("a shape is larger than any frame");
    t->count *= length;
  }
  if (t->count * size != to - from) stop("a shape does not fit its data_offsets");
  return to - from;
}

static void read_exactly(void *bytes, uint64_t size) {
  if (fread(bytes, 1, (size_t)size, stdin) != size) stop("the input ended without bye");
}

/* Fills meta and tensors, which live until forget_all. */
static void read_frame(void) {
  uint64_t size, header_size;
  read_exactly(&size, sizeof size);
  if (size < 8 || size > largest_frame) stop("a frame has an impossible size");
  unsigned char *frame = take(size);
  read_exactly(frame, size);
  memcpy(&header_size, frame, 8);
  if (header_size > size - 8) stop("a frame's header is longer than the frame");
  const json *header = read_object((char *)frame + 8, (size_t)header_size);
  if (!header) stop("a frame's header is no JSON object");
  int n = 0;
  for (const json *entry = header->first; entry; entry = entry->next) n++;
  tensors = take((uint64_t)n * sizeof *tensors), n_tensors = 0;
  int64_t data_size = (int64_t)(size - 8 - header_size), filled = 0;
  for (const json *entry = header->first; entry; entry = entry->next)
    if (strcmp(entry->key, "__metadata__") != 0) filled += read_entry(entry, frame + 8 + header_size, data_size, &tensors[n_tensors++]);
  if (filled != data_size) stop("a frame's tensors do not fill it");
  meta = member(header, "__metadata__");
  const char *protocol = text_of(meta, "protocol");
  if (!protocol || strcmp(protocol, "1") != 0) stop("the suite speaks another protocol");
}

/* ---- frames out ---- */

static char *put(char *to, const char *text) { return strcpy(to, text) + strlen(text); }

static char *put_string(char *to, const char *text) {
  *to++ = '"';
  for (; *text; text++)
    if (*text == '"' || *text == '\\' || (unsigned char)*text < ' ') to += sprintf(to, "\\u%04x", (unsigned)(unsigned char)*text);
    else *to++ = *text;
  return put(to, "\"");
}

/* Metadata as pairs of key and value, NULL behind the last; `y` may be NULL. */
static void send_frame(const char *const pairs[][2], const tensor *y) {
  uint64_t room = 500;
  for (int i = 0; pairs[i][0]; i++) room += 20 + 6 * (uint64_t)strlen(pairs[i][1]);
  char *const header = take(room), *to = put(header, "{\"__metadata__\":{\"protocol\":\"1\"");
  for (int i = 0; pairs[i][0]; i++) {
    to = put_string(put(to, ","), pairs[i][0]);
    to = put_string(put(to, ":"), pairs[i][1]);
  }
  to = put(to, "}");
  const uint64_t data_size = y ? 8 * (uint64_t)y->count : 0;
  if (y) {
    to = put(to, ",\"y\":{\"dtype\":\"F64\",\"shape\":[");
    for (int a = 0; a < y->rank; a++) to += sprintf(to, "%s%lld", a ? "," : "", (long long)y->shape[a]);
    to += sprintf(to, "],\"data_offsets\":[0,%llu]}", (unsigned long long)data_size);
  }
  to = put(to, "}");
  while ((to - header) % 8 != 0) *to++ = ' ';
  const uint64_t lengths[2] = {8 + (uint64_t)(to - header) + data_size, (uint64_t)(to - header)}; /* the frame's, the header's */
  fwrite(lengths, sizeof lengths, 1, stdout);
  fwrite(header, 1, (size_t)lengths[1], stdout);
  if (y) fwrite(y->data, 1, (size_t)data_size, stdout);
  if (fflush(stdout) != 0) stop("the answer could not be written");
}

/* ---- what the operators ask of a request ---- */

static const json *config;

/* Every option of the protocol: a key that is almost one of them is a mistake. */
static const char *const options[] = {
  "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "rope_theta",
  "rms_norm_eps", "tie_word_embeddings", "hidden_act", "rope_scaling", "use_sliding_window", "rope_theta_3d", "spatial_temporal_separate_strategy",
  "spatial_ratio", "mixed_rope_layout", "temporal_rope", "rope_mixed_3d", "mixedRoPE_3d_learned_per_axis", "mixedRoPE_3d_learned_axial_mixing_weight",
  "rope_3d_kind", "coord_norm", "drift", "virtual_resolution", "num_bins", "downsamplings", "cell_size", "reduced_grid_size", "point_start_token_id",
  "point_end_token_id", "point_token_id", "decode_mask", "grid_overflow"};
enum { N_OPTIONS = sizeof options / sizeof *options };

/* Whether at most `edits` letters must be changed, dropped or put in to make one word of the other. */
static int is_near(const char *a, const char *b, int edits) {
  while (*a && *a == *b) a++, b++;
  if (!*a && !*b) return 1;
  if (edits == 0) return 0;
  return (*a && is_near(a + 1, b, edits - 1)) || (*b && is_near(a, b + 1, edits - 1)) || (*a && *b && is_near(a + 1, b + 1, edits - 1));
}

static int same_letters(const char *a, const char *b) {
  for (;; a++, b++) {
    a += strspn(a, "_-"), b += strspn(b, "_-");
    if (tolower((unsigned char)*a) != tolower((unsigned char)*b)) return 0;
    if (!*a) return 1;
  }
}

static void read_config(void) {
  const char *text = text_of(meta, "config");
  config = text ? read_object(text, strlen(text)) : NULL;
  if (!config) refuse("config is no JSON object without a key that stands twice");
  for (const json *m = config->first; m; m = m->next) {
    const char *meant = NULL;
    for (int i = 0; i < N_OPTIONS; i++) {
      if (strcmp(m->key, options[i]) == 0) break;
      if (same_letters(m->key, options[i]) || is_near(m->key, options[i], 2)) meant = options[i];
      if (i + 1 == N_OPTIONS && meant) refuse("config has an unknown key %.80s; is %s meant?", m->key, meant);
    }
  }
  const json *scaling = member(config, "rope_scaling"), *window = member(config, "use_sliding_window"), *act = member(config, "hidden_act");
  if (scaling && scaling->kind != 'n') refuse("rope_scaling is given; only null is possible");
  if (window && window->kind != 'f') refuse("use_sliding_window is given; only false is possible");
  if (act && !(act->text && strcmp(act->text, "silu") == 0)) refuse("hidden_act is not silu");
}

static double positive_option(const char *key) {
  const json *option = member(config, key);
  if (!option || option->kind == 'n') refuse("config has no %s", key);
  if (option->kind != 0 || !(option->number > 0)) refuse("%s is not a number above 0", key);
  return option->number;
}

static tensor *may_take(const char *name, const char *dtype) {
  for (tensor *t = tensors; t < tensors + n_tensors; t++) {
    if (strcmp(t->name, name) != 0) continue;
    if (strcmp(t->dtype, dtype) != 0) refuse("%s has type %s, expected %s", name, t->dtype, dtype);
    t->taken = 1;
    return t;
  }
  return NULL;
}

static tensor *must_take(const char *name, const char *dtype) {
  tensor *t = may_take(name, dtype);
  if (!t) refuse("the tensor %s is missing", name);
  return t;
}

static const char *tier_type(void) { return strcmp(text_of(meta, "tier"), "fp64") == 0 ? "F64" : "F32"; }

/* The elements of a floating tensor. Data need not lie at a multiple of its elements' size, so it is copied. */
static const double *values(const tensor *t) {
  double *v = take((uint64_t)t->count * sizeof *v);
  for (int64_t i = 0; i < t->count; i++) {
    float single = 0;
    if (strcmp(t->dtype, "F64") == 0) memcpy(&v[i], t->data + 8 * i, 8);
    else memcpy(&single, t->data + 4 * i, 4), v[i] = single;
    if (!isfinite(v[i])) refuse("%s holds %g at flat index %lld, expected finite values", t->name, v[i], (long long)i);
  }
  return v;
}

static int64_t last_axis(const tensor *t) {
  if (t->rank < 1) refuse("%s is a scalar, expected at least one axis", t->name);
  return t->shape[t->rank - 1];
}

static void must_be(const tensor *t, int rank, const int64_t *shape) {
  if (t->rank != rank) refuse("%s has %d axes, expected %d", t->name, t->rank, rank);
  for (int a = 0; a < rank; a++)
    if (t->shape[a] != shape[a]) refuse("axis %d of %s has size %lld, expected %lld", a, t->name, (long long)t->shape[a], (long long)shape[a]);
}

/* Called when all inputs are known: the answer, of x's shape but for the last axis. */
static double *answer(tensor *y, const tensor *x, int64_t last) {
  for (const tensor *t = tensors; t < tensors + n_tensors; t++)
    if (!t->taken) refuse("the tensor %.100s is none of this operator's", t->name);
  *y = *x;
  y->shape[y->rank - 1] = last, y->count = 1;
  for (int a = 0; a < y->rank; a++) y->count *= y->shape[a];
  double *v = take((uint64_t)y->count * sizeof *v);
  y->data = (unsigned char *)v;
  return v;
}

/* ---- the operators ---- */

/* y = x / sqrt(mean(x^2) + eps) * weight over the last axis. */
static void rmsnorm(tensor *out) {
  const double eps = positive_option("rms_norm_eps");
  const tensor *x = must_take("x", tier_type()), *weight = must_take("weight", tier_type());
  const int64_t n = last_axis(x);
  must_be(weight, 1, &n);
  const double *in = values(x), *w = values(weight);
  double *y = answer(out, x, n);
  for (int64_t row = 0; row < x->count; row += n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += in[row + i] * in[row + i];
    const double rms = sqrt(sum / (double)n + eps);
    for (int64_t i = 0; i < n; i++) y[row + i] = in[row + i] / rms * w[i];
  }
}

/* y[r,o] = sum over i of x[r,i] * weight[o,i], + bias[o]. */
static void linear(tensor *out) {
  const tensor *x = must_take("x", tier_type()), *weight = must_take("weight", tier_type()), *bias = may_take("bias", tier_type());
  const int64_t n = last_axis(x);
  last_axis(weight);
  const int64_t m = weight->shape[0];
  must_be(weight, 2, (const int64_t[]){m, n});
  if (bias) must_be(bias, 1, &m);
  const double *in = values(x), *w = values(weight), *b = bias ? values(bias) : NULL;
  double *y = answer(out, x, m);
  for (int64_t i = 0; i < out->count; i++) {
    const double *row = in + i / m * n, *column = w + i % m * n;
    double sum = 0;
    for (int64_t k = 0; k < n; k++) sum += row[k] * column[k];
    y[i] = b ? sum + b[i % m] : sum;
  }
}

/* The two halves of each head turn against each other: element j with j + D/2, by position * rope_theta^(-2j/D). */
static void rope1d(tensor *out) {
  const double theta = positive_option("rope_theta");
  const tensor *x = must_take("x", tier_type()), *ids = must_take("position_ids", "I64");
  if (x->rank != 4) refuse("x has %d axes, expected [B,heads,q,D]", x->rank);
  const int64_t B = x->shape[0], heads = x->shape[1], q = x->shape[2], D = x->shape[3];
  const json *head_dim = member(config, "head_dim");
  if (D == 0 || D % 2 != 0) refuse("x has an odd head size or none: %lld", (long long)D);
  if (head_dim && head_dim->kind != 'n' && head_dim->number != (double)D) refuse("head_dim is %g, but x has heads of %lld", head_dim->number, (long long)D);
  must_be(ids, 2, (const int64_t[]){ids->rank == 2 && ids->shape[0] == 1 ? 1 : B, q});
  const double *in = values(x);
  double *y = answer(out, x, D);
  for (int64_t i = 0; i < ids->count; i++) {
    int64_t position;
    memcpy(&position, ids->data + 8 * i, 8);
    if (position < 0) refuse("position_ids holds %lld at flat index %lld; positions count from 0", (long long)position, (long long)i);
  }
  for (int64_t row = 0; row < B * heads * q; row++) {
    int64_t position;
    const int64_t sample = ids->shape[0] == 1 ? 0 : row / (heads * q);
    memcpy(&position, ids->data + 8 * (sample * q + row % q), 8);
    for (int64_t j = 0; j < D / 2; j++) {
      const double angle = (double)position * pow(theta, -2.0 * (double)j / (double)D), c = cos(angle), s = sin(angle);
      const double a = in[row * D + j], b = in[row * D + j + D / 2];
      y[row * D + j] = a * c - b * s;
      y[row * D + j + D / 2] = b * c + a * s;
    }
  }
}

/* ---- the conversation ---- */

static const struct {
  const char *name;
  void (*compute)(tensor *y);
} operators[] = {{"rmsnorm", rmsnorm}, {"linear", linear}, {"rope1d", rope1d}};

static void reply(const char *type, const char *id, const char *why, const tensor *y) {
  send_frame((const char *const[][2]){{"type", type}, {"id", id}, {why ? "message" : NULL, why}, {NULL, NULL}}, y);
}

/* Whether the request is answered; else `message` says why not. */
static int attempt(void (*compute)(tensor *), tensor *y) {
  if (setjmp(refused) != 0) return 0;
  read_config();
  compute(y);
  return 1;
}

static void answer_request(void) {
  const char *id = text_of(meta, "id"), *op = text_of(meta, "op"), *tier = text_of(meta, "tier");
  void (*compute)(tensor *) = NULL;
  tensor y;
  if (!id || !op || !tier) stop("a request has no id, op or tier");
  for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
    if (strcmp(operators[i].name, op) == 0) compute = operators[i].compute;
  if (!compute || (strcmp(tier, "fp64") != 0 && strcmp(tier, "fp32") != 0)) reply("unsupported", id, "only rmsnorm, linear and rope1d, at fp64 and fp32", NULL);
  else if (attempt(compute, &y)) reply("answer", id, NULL, &y);
  else reply("error", id, message, NULL);
}

int main(void) {
  for (;; forget_all()) {
    read_frame();
    const char *type = text_of(meta, "type");
    if (type && strcmp(type, "bye") == 0) return 0;
    if (type && strcmp(type, "hello") == 0)
      send_frame((const char *const[][2]){{"type", "hello"}, {"name", "plain"}, {"version", "1"}, {"ops", "[\"rmsnorm\",\"linear\",\"rope1d\"]"},
                                          {"tiers", "[\"fp64\",\"fp32\"]"}, {NULL, NULL}}, NULL);
    else if (type && strcmp(type, "request") == 0) answer_request();
    else stop("a frame is neither hello, request nor bye");
  }
}

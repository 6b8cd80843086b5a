#include "sizes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sizes of tensors without elements are backed by no data, so nothing else bounds them. */
#define EMPTY_SIZE_LIMIT ((int64_t)1 << 24)

static const mr3d_size *find(const mr3d_sizes *sizes, const char *name) {
  for (int i = 0; i < sizes->count; i++)
    if (strcmp(sizes->bound[i].name, name) == 0) return &sizes->bound[i];
  return NULL;
}

void mr3d_sizes_bind(mr3d_sizes *sizes, const char *name, int64_t value, const char *from, ...) {
  mr3d_size *size = (mr3d_size *)find(sizes, name);
  if (!size) {
    if (sizes->count == (int)(sizeof sizes->bound / sizeof *sizes->bound)) abort();
    size = &sizes->bound[sizes->count++];
    snprintf(size->name, sizeof size->name, "%s", name);
  }
  size->value = value;
  va_list arguments;
  va_start(arguments, from);
  vsnprintf(size->from, sizeof size->from, from, arguments);
  va_end(arguments);
}

bool mr3d_sizes_has(const mr3d_sizes *sizes, const char *name) { return find(sizes, name) != NULL; }

int64_t mr3d_sizes_get(const mr3d_sizes *sizes, const char *name) {
  const mr3d_size *size = find(sizes, name);
  if (!size) {
    fprintf(stderr, "size %s was asked for before it was bound\n", name);
    abort();
  }
  return size->value;
}

/* One size of a pattern: "3", "B", "L+q" or "H*D". */
typedef struct term {
  char left[16], sign, right[16];
} term;

static term parse_term(const char *text, size_t length) {
  term t = {0};
  size_t split = strcspn(text, "+*");
  if (split >= length) split = length;
  snprintf(t.left, sizeof t.left, "%.*s", (int)split, text);
  if (split < length) {
    t.sign = text[split];
    snprintf(t.right, sizeof t.right, "%.*s", (int)(length - split - 1), text + split + 1);
  }
  return t;
}

static bool value_of(const mr3d_sizes *sizes, const char *name, int64_t *value) {
  if (name[0] >= '0' && name[0] <= '9') return *value = atoll(name), true;
  const mr3d_size *size = find(sizes, name);
  if (size) *value = size->value;
  return size != NULL;
}

static bool match_term(mr3d_sizes *sizes, const char *label, term t, int64_t actual) {
  int64_t left, right = 0;
  bool has_left = value_of(sizes, t.left, &left);
  if (t.sign && !value_of(sizes, t.right, &right)) {
    mr3d_sizes_get(sizes, t.right);
    return false;
  }
  if (has_left) {
    int64_t expected = left;
    bool overflow = t.sign == '+'   ? __builtin_add_overflow(left, right, &expected)
                    : t.sign == '*' ? __builtin_mul_overflow(left, right, &expected)
                                    : false;
    return !overflow && actual == expected;
  }
  if (t.sign == '*') mr3d_sizes_get(sizes, t.left);
  if (actual < right) return false;
  mr3d_sizes_bind(sizes, t.left, actual - right, "%s", label);
  return true;
}

static bool value_of_term(const mr3d_sizes *sizes, term t, int64_t *value) {
  int64_t right = 0;
  if (!value_of(sizes, t.left, value) || (t.sign && !value_of(sizes, t.right, &right))) return false;
  return t.sign == '*' ? !__builtin_mul_overflow(*value, right, value) : !__builtin_add_overflow(*value, right, value);
}

int mr3d_sizes_shape(const mr3d_sizes *sizes, const char *pattern, int64_t shape[MR3D_MAX_RANK]) {
  int rank = 0;
  for (const char *at = pattern; *at && *at != '|' && *at != ';'; rank++) {
    const size_t length = strcspn(at, ",|;");
    if (rank == MR3D_MAX_RANK || !value_of_term(sizes, parse_term(at, length), &shape[rank])) return -1;
    at += length + (at[length] == ',');
  }
  return rank;
}

/* The alternative up to '|', without its condition: its length, its condition's first character or NULL, the next alternative or NULL. */
static size_t alternative(const char *pattern, const char **condition, const char **next) {
  size_t whole = strcspn(pattern, "|"), length = strcspn(pattern, "|;");
  *condition = length < whole ? pattern + length + 1 : NULL;
  *next = pattern[whole] ? pattern + whole + 1 : NULL;
  return length;
}

static bool match_alternative(mr3d_sizes *sizes, const char *label, const mr3d_tensor *tensor, const char *pattern) {
  const char *condition, *next, *at = pattern, *end = pattern + alternative(pattern, &condition, &next);
  int dims = 0, first = 0;
  for (const char *p = at; p < end; p++) dims += *p == ',';
  if (end > at) dims++;
  if (strncmp(at, "..", 2) == 0) {
    int rank = tensor->rank - (dims - 1);
    if (rank < 0) return false;
    if (sizes->lead_rank == 0) {
      sizes->lead_rank = rank + 1;
      memcpy(sizes->lead, tensor->shape, (size_t)rank * sizeof *sizes->lead);
      snprintf(sizes->lead_from, sizeof sizes->lead_from, "%s", label);
    } else if (sizes->lead_rank != rank + 1 || memcmp(sizes->lead, tensor->shape, (size_t)rank * sizeof *sizes->lead) != 0) {
      return false;
    }
    first = rank;
    at += end - at > 2 ? 3 : 2;
  } else if (dims != tensor->rank) {
    return false;
  }
  for (int d = first; at < end; d++) {
    size_t length = strcspn(at, ",|;");
    if (!match_term(sizes, label, parse_term(at, length), tensor->shape[d])) return false;
    at += length + (at + length < end);
  }
  return !condition || match_term(sizes, label, parse_term(condition, strcspn(condition, "=")), atoll(strchr(condition, '=') + 1));
}

typedef struct text {
  char data[900];
  size_t length;
} text;

static void append(text *t, const char *format, ...) MR3D_PRINTF(2, 3);
static void append(text *t, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int n = vsnprintf(t->data + t->length, sizeof t->data - t->length, format, arguments);
  va_end(arguments);
  t->length += (size_t)n;
  if (t->length >= sizeof t->data) t->length = sizeof t->data - 1;
}

/* " with B = 1 (query), D = 64 (config)": the bound names among the pattern's. */
static void append_known(text *out, const mr3d_sizes *sizes, const char *pattern) {
  const char *joint = " with ";
  const mr3d_size *told[24];
  int n_told = 0;
  for (const char *at = pattern; *at;) {
    size_t length = strcspn(at, ",|;=+*");
    term t = parse_term(at, length);
    const mr3d_size *size = find(sizes, t.left);
    for (int i = 0; i < n_told; i++)
      if (told[i] == size) size = NULL;
    if (size) {
      append(out, "%s%s = %lld (%s)", joint, size->name, (long long)size->value, size->from);
      told[n_told++] = size;
      joint = ", ";
    }
    if (strncmp(at, "..", 2) == 0 && sizes->lead_rank) {
      char shape[96];
      append(out, "%s.. = %s (%s)", joint, mr3d_shape_text(sizes->lead_rank - 1, sizes->lead, shape), sizes->lead_from);
      joint = ", ";
    }
    at += length;
    if (*at) at++;
  }
  for (const char *at = pattern; *at;) { /* what a sum comes to: "L+q = 28" */
    size_t length = strcspn(at, ",|;=");
    term t = parse_term(at, length);
    int64_t left, right, sum;
    if (t.sign == '+' && value_of(sizes, t.left, &left) && value_of(sizes, t.right, &right) && !__builtin_add_overflow(left, right, &sum))
      append(out, "%s%.*s = %lld", joint, (int)length, at, (long long)sum);
    at += length;
    if (*at) at++;
  }
}

mr3d_status mr3d_sizes_match(mr3d_sizes *sizes, const char *label, const mr3d_tensor *tensor, const char *pattern, mr3d_error *error) {
  char shape[96];
  mr3d_shape_text(tensor->rank, tensor->shape, shape);
  if (mr3d_tensor_count(tensor) == 0)
    for (int d = 0; d < tensor->rank; d++)
      if (tensor->shape[d] > EMPTY_SIZE_LIMIT)
        return mr3d_fail(error, MR3D_INVALID, "%s has shape %s: a size without elements may be at most %lld", label, shape,
                         (long long)EMPTY_SIZE_LIMIT);
  text expected = {0};
  for (const char *at = pattern, *condition, *next; at; at = next) {
    mr3d_sizes attempt = *sizes;
    size_t length = alternative(at, &condition, &next);
    if (match_alternative(&attempt, label, tensor, at)) {
      *sizes = attempt;
      return MR3D_OK;
    }
    append(&expected, "%s[%.*s]", at == pattern ? "" : " or ", (int)length, at);
    if (condition) {
      const int name = (int)strcspn(condition, "="), value = (int)strcspn(condition + name + 1, "|");
      append(&expected, " (%.*s = %.*s only)", name, condition, value, condition + name + 1);
    }
  }
  append_known(&expected, sizes, pattern);
  return mr3d_fail(error, MR3D_INVALID, "%s has shape %s, expected %s", label, shape, expected.data);
}

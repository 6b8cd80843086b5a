/** PLY, strictly (mr3d/ply.h): a header in lines, then rows of its elements in ascii or binary. */
#include "mr3d/ply.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "file.h"

/* ---- the format's types ---- */

typedef enum scalar { INT8, UINT8, INT16, UINT16, INT32, UINT32, FLOAT32, FLOAT64, N_SCALARS } scalar;

static const struct {
  const char *name, *alias;
  size_t size;
  double lowest, highest; /* of integers */
} scalars[N_SCALARS] = {
    [INT8] = {"char", "int8", 1, -128, 127},
    [UINT8] = {"uchar", "uint8", 1, 0, 255},
    [INT16] = {"short", "int16", 2, -32768, 32767},
    [UINT16] = {"ushort", "uint16", 2, 0, 65535},
    [INT32] = {"int", "int32", 4, -2147483648.0, 2147483647.0},
    [UINT32] = {"uint", "uint32", 4, 0, 4294967295.0},
    [FLOAT32] = {"float", "float32", 4, 0, 0},
    [FLOAT64] = {"double", "float64", 8, 0, 0},
};

static scalar scalar_named(const char *name) {
  int type = 0;
  while (type < N_SCALARS && strcmp(name, scalars[type].name) != 0 && strcmp(name, scalars[type].alias) != 0)
    type++;
  return (scalar)type;
}

/* What is read of the vertices, in the order of the tensor's columns. */
static const char *const wanted[6] = {"x", "y", "z", "red", "green", "blue"};
#define NOT_WANTED (-1)

typedef struct property {
  scalar type;
  bool list;
  scalar count_type; /* of a list */
  int column;        /* index in `wanted`, or NOT_WANTED */
} property;

typedef struct element {
  char *name;
  bool vertex;
  int64_t count;
  property *properties;
  int n_properties;
} element;

typedef enum encoding { NO_ENCODING, ASCII, LITTLE_ENDIAN_BINARY, BIG_ENDIAN_BINARY } encoding;

typedef struct reader {
  const unsigned char *bytes;
  size_t size, at;
  long long line; /* of the header, and of an ascii body */
  bool in_body;
  encoding encoding;
  element *elements;
  int n_elements;
  locale_t c_locale; /* a decimal point is a point */
  mr3d_error *error;
} reader;

static mr3d_status wrong(reader *r, const char *format, ...) MR3D_PRINTF(2, 3);
static mr3d_status wrong(reader *r, const char *format, ...) {
  char what[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  if (r->in_body && r->encoding != ASCII)
    return mr3d_fail(r->error, MR3D_FORMAT, "byte %zu: %s", r->at, what);
  return mr3d_fail(r->error, MR3D_FORMAT, "line %lld: %s", r->line, what);
}

/* ---- header ---- */

#define LONGEST_LINE 4096
#define MOST_WORDS 5 /* property list uchar int name */

/* Reads one header line, without its LF or CR LF, and counts it. */
static mr3d_status header_line(reader *r, char text[LONGEST_LINE]) {
  const size_t start = r->at;
  bool returned = false;
  r->line++;
  for (; r->at < r->size && r->bytes[r->at] != '\n' && r->at - start < LONGEST_LINE - 1; r->at++) {
    if (r->bytes[r->at] == '\0')
      return wrong(r, "a NUL byte in the header%s", r->line == 1 ? ": this is no PLY file" : "");
    returned = returned || r->bytes[r->at] == '\r';
  }
  if (r->at == r->size || r->bytes[r->at] != '\n') {
    if (returned)
      return wrong(r, "a carriage return ends no line by itself; expected LF or CR LF");
    if (r->at < r->size)
      return wrong(r, "longer than %d bytes; is this a PLY file?", LONGEST_LINE - 1);
    return wrong(r, "the file ends inside the header (no end_header)");
  }
  size_t length = r->at++ - start;
  if (length > 0 && r->bytes[start + length - 1] == '\r')
    length--;
  memcpy(text, r->bytes + start, length);
  text[length] = '\0';
  return MR3D_OK;
}

/* Cuts a line into words; more than MOST_WORDS count as one more. */
static int split_words(char *text, char *words[MOST_WORDS + 1]) {
  int n = 0;
  char *rest = NULL;
  for (char *word = strtok_r(text, " \t", &rest); word != NULL && n <= MOST_WORDS; word = strtok_r(NULL, " \t", &rest))
    words[n++] = word;
  return n;
}

static mr3d_status read_format(reader *r, char *words[], int n) {
  static const char *const names[] = {
      [ASCII] = "ascii", [LITTLE_ENDIAN_BINARY] = "binary_little_endian", [BIG_ENDIAN_BINARY] = "binary_big_endian"};
  if (r->encoding != NO_ENCODING)
    return wrong(r, "a second format line");
  if (n == 3 && strcmp(words[2], "1.0") == 0)
    for (int e = ASCII; e <= BIG_ENDIAN_BINARY; e++)
      if (strcmp(words[1], names[e]) == 0)
        r->encoding = (encoding)e;
  if (r->encoding == NO_ENCODING)
    return wrong(r, "expected \"format ascii|binary_little_endian|binary_big_endian 1.0\"");
  return MR3D_OK;
}

static mr3d_status read_element(reader *r, char *words[], int n) {
  if (n != 3 || strspn(words[2], "0123456789") != strlen(words[2]))
    return wrong(r, "expected \"element NAME COUNT\"");
  errno = 0;
  const long long count = strtoll(words[2], NULL, 10);
  if (errno != 0)
    return wrong(r, "element %.64s: count %.40s is larger than any file", words[1], words[2]);
  for (int i = 0; i < r->n_elements; i++)
    if (strcmp(r->elements[i].name, words[1]) == 0)
      return wrong(r, "a second element %.64s", words[1]);
  element *larger = mr3d_allocate(r->n_elements + 1, sizeof *larger);
  if (r->n_elements > 0)
    memcpy(larger, r->elements, (size_t)r->n_elements * sizeof *larger);
  free(r->elements);
  r->elements = larger;
  const size_t length = strlen(words[1]) + 1;
  larger[r->n_elements++] = (element){.name = memcpy(mr3d_allocate((long long)length, 1), words[1], length),
                                      .vertex = strcmp(words[1], "vertex") == 0,
                                      .count = count};
  return MR3D_OK;
}

static mr3d_status read_property(reader *r, char *words[], int n) {
  const bool list = n >= 2 && strcmp(words[1], "list") == 0;
  if (n != (list ? 5 : 3))
    return wrong(r, "expected \"property TYPE NAME\" or \"property list COUNT_TYPE TYPE NAME\"");
  if (r->n_elements == 0)
    return wrong(r, "a property before the first element");
  element *e = &r->elements[r->n_elements - 1];
  const char *const type = words[n - 2], *const name = words[n - 1];
  property p = {
      .type = scalar_named(type), .list = list, .count_type = list ? scalar_named(words[2]) : UINT8, .column = NOT_WANTED};
  if (p.type == N_SCALARS)
    return wrong(r, "unknown property type \"%.40s\"; types are char uchar short ushort int uint float double", type);
  if (p.count_type >= FLOAT32)
    return wrong(r, "\"%.40s\" cannot count a list; expected an integer type", words[2]);
  for (int column = 0; e->vertex && column < 6; column++)
    if (strcmp(name, wanted[column]) == 0)
      p.column = column;
  for (int i = 0; p.column != NOT_WANTED && i < e->n_properties; i++)
    if (e->properties[i].column == p.column)
      return wrong(r, "a second vertex property %s", name);
  if (p.column != NOT_WANTED && list)
    return wrong(r, "vertex property %s is a list; expected one number", name);
  if ((e->n_properties & (e->n_properties - 1)) == 0) { /* full at powers of two */
    property *larger = mr3d_allocate(e->n_properties > 0 ? 2LL * e->n_properties : 1, sizeof *larger);
    if (e->n_properties > 0)
      memcpy(larger, e->properties, (size_t)e->n_properties * sizeof *larger);
    free(e->properties);
    e->properties = larger;
  }
  e->properties[e->n_properties++] = p;
  return MR3D_OK;
}

#define MOST_ELEMENTS 1000 /* far above any file; keeps the search for a second element of a name short */

static mr3d_status read_header(reader *r) {
  char text[LONGEST_LINE], *words[MOST_WORDS + 1];
  mr3d_status status = header_line(r, text);
  if (status != MR3D_OK)
    return status;
  if (strcmp(text, "ply") != 0)
    return wrong(r, "expected \"ply\", with which every PLY file begins");
  for (;;) {
    if ((status = header_line(r, text)) != MR3D_OK)
      return status;
    const int n = split_words(text, words);
    const char *const keyword = n > 0 ? words[0] : "";
    if (strcmp(keyword, "comment") == 0 || strcmp(keyword, "obj_info") == 0)
      continue;
    else if (strcmp(keyword, "format") == 0)
      status = read_format(r, words, n);
    else if (strcmp(keyword, "element") == 0)
      status = r->n_elements < MOST_ELEMENTS ? read_element(r, words, n) : wrong(r, "more than %d elements", MOST_ELEMENTS);
    else if (strcmp(keyword, "property") == 0)
      status = read_property(r, words, n);
    else if (strcmp(keyword, "end_header") == 0 && n == 1)
      break;
    else
      return wrong(r, "\"%.64s\"; expected format, comment, obj_info, element, property or end_header", keyword);
    if (status != MR3D_OK)
      return status;
  }
  if (r->encoding == NO_ENCODING)
    return wrong(r, "the header ends without a format line");
  r->in_body = true;
  return MR3D_OK;
}

/* ---- body ---- */

static mr3d_status read_binary(reader *r, scalar type, double *value) {
  const size_t size = scalars[type].size;
  if (r->size - r->at < size)
    return wrong(r, "the file ends inside a %s", scalars[type].name);
  uint64_t bits = 0;
  for (size_t i = 0; i < size; i++) /* most significant byte first */
    bits = bits << 8 | r->bytes[r->at + (r->encoding == BIG_ENDIAN_BINARY ? i : size - 1 - i)];
  r->at += size;
  if (type == FLOAT32) {
    const uint32_t half = (uint32_t)bits;
    float number;
    memcpy(&number, &half, sizeof number);
    *value = number;
  } else if (type == FLOAT64)
    memcpy(value, &bits, sizeof *value);
  else /* two's complement */
    *value = (double)bits - (scalars[type].lowest < 0 && bits >> (8 * size - 1) ? ldexp(1, 8 * (int)size) : 0);
  return MR3D_OK;
}

static bool is_blank(int c) { return c == ' ' || c == '\t' || c == '\r'; }

static void skip_blanks(reader *r) {
  while (r->at < r->size && is_blank(r->bytes[r->at]))
    r->at++;
}

#define LONGEST_NUMBER 256

/* A word of decimal digits, sign, point and exponent, or nan and inf in any case; nothing else that strtod would take. */
static bool looks_like_float(const char *word) {
  static const char *const specials[] = {"nan", "inf", "infinity"};
  const char *const bare = word + (*word == '-' || *word == '+');
  for (size_t i = 0; i < sizeof specials / sizeof *specials; i++)
    if (strcasecmp(bare, specials[i]) == 0)
      return true;
  return strspn(word, "0123456789.eE+-") == strlen(word);
}

static mr3d_status read_ascii(reader *r, scalar type, double *value) {
  char word[LONGEST_NUMBER], *end = word;
  size_t length = 0;
  skip_blanks(r);
  for (; r->at < r->size && r->bytes[r->at] != '\n' && !is_blank(r->bytes[r->at]); r->at++)
    if (length < LONGEST_NUMBER - 1)
      word[length++] = (char)r->bytes[r->at];
  word[length] = '\0';
  if (length == 0)
    return wrong(r, "the %s ends where a %s should stand", r->at < r->size ? "line" : "file", scalars[type].name);
  const bool whole = type < FLOAT32;
  if (whole) {
    errno = 0;
    *value = (double)strtoll(word, &end, 10);
  } else if (looks_like_float(word)) /* a float is rounded once, from its digits */
    *value = type == FLOAT32 ? (double)strtof_l(word, &end, r->c_locale) : strtod_l(word, &end, r->c_locale);
  if (end == word || *end != '\0' || strlen(word) != length || length == LONGEST_NUMBER - 1)
    return wrong(r, "\"%.40s\"%s is not a %s", word, strlen(word) != length ? ", then a zero byte," : "", whole ? "whole number" : "number");
  if (whole && !(errno == 0 && *value >= scalars[type].lowest && *value <= scalars[type].highest))
    return wrong(r, "%.40s does not fit in a %s", word, scalars[type].name);
  if (!whole && isinf(*value) && strpbrk(word, "0123456789"))
    return wrong(r, "%.40s is beyond what a %s holds", word, scalars[type].name);
  return MR3D_OK;
}

static mr3d_status read_scalar(reader *r, scalar type, double *value) {
  return r->encoding == ASCII ? read_ascii(r, type, value) : read_binary(r, type, value);
}

static mr3d_status skip_list(reader *r, const property *p) {
  double length, ignored;
  mr3d_status status = read_scalar(r, p->count_type, &length);
  if (status != MR3D_OK)
    return status;
  if (length < 0)
    return wrong(r, "a list of %.0f items", length);
  if (length > (double)(r->size - r->at))
    return wrong(r, "a list of %.0f items, but only %zu bytes follow", length, r->size - r->at);
  for (double i = 0; i < length && status == MR3D_OK; i++)
    status = read_scalar(r, p->type, &ignored);
  return status;
}

/* Reads one row of an element. `values` takes the wanted properties, by column. */
static mr3d_status read_row(reader *r, const element *e, double values[6]) {
  mr3d_status status = MR3D_OK;
  if (r->encoding == ASCII)
    r->line++;
  for (int i = 0; i < e->n_properties && status == MR3D_OK; i++) {
    const property *const p = &e->properties[i];
    double value = 0;
    status = p->list ? skip_list(r, p) : read_scalar(r, p->type, &value);
    if (status == MR3D_OK && p->column != NOT_WANTED)
      values[p->column] = value;
  }
  if (status != MR3D_OK || r->encoding != ASCII)
    return status;
  skip_blanks(r);
  if (r->at < r->size && r->bytes[r->at] != '\n')
    return wrong(r, "more values than the %d properties of %.64s", e->n_properties, e->name);
  r->at += r->at < r->size;
  return MR3D_OK;
}

/* A count that the rest of the file cannot hold is refused before memory is asked for. */
static mr3d_status check_count(reader *r, const element *e) {
  if (e->count > 0 && e->n_properties == 0)
    return wrong(r, "element %.64s has %lld rows and no properties", e->name, (long long)e->count);
  uint64_t smallest = 0, left = r->size - r->at;
  for (int i = 0; i < e->n_properties; i++) /* ascii: a digit and a blank or line end */
    smallest +=
        r->encoding == ASCII ? 2 : scalars[e->properties[i].list ? e->properties[i].count_type : e->properties[i].type].size;
  left += r->encoding == ASCII; /* the last line end may be missing */
  if (e->count > 0 && (uint64_t)e->count > left / smallest)
    return wrong(r, "the file is cut short: %lld rows of element %.64s need at least %llu bytes each, %zu bytes follow",
                 (long long)e->count, e->name, (unsigned long long)smallest, r->size - r->at);
  return MR3D_OK;
}

static bool has_columns(const element *e, int first, int last, int *missing) {
  for (int column = first; column <= last; column++) {
    int i = 0;
    while (i < e->n_properties && e->properties[i].column != column)
      i++;
    if (i == e->n_properties) {
      *missing = column;
      return false;
    }
  }
  return true;
}

/* Colours are 0 .. 255 whatever their type. Some programs write shares of 1 as floats; taken for 0 .. 255 they would all be black. */
static mr3d_status check_colours(reader *r, const element *e, const double *points) {
  bool floats = false, fractions = false;
  for (int i = 0; i < e->n_properties; i++)
    floats = floats || (e->properties[i].column >= 3 && e->properties[i].type >= FLOAT32);
  for (int64_t row = 0; row < e->count && floats; row++)
    for (int column = 3; column < 6; column++) {
      const double colour = points[6 * row + column];
      if (!(colour >= 0 && colour <= 1))
        return MR3D_OK;
      fractions = fractions || (colour > 0 && colour < 1);
    }
  if (fractions)
    return mr3d_fail(r->error, MR3D_FORMAT, "element %.64s: no colour exceeds 1, as if they were shares of 1; expected 0 .. 255, so multiply red, green and blue by 255", e->name);
  return MR3D_OK;
}

static mr3d_status read_body(reader *r, mr3d_bundle *bundle) {
  double values[6] = {0};
  int missing;
  bool found = false;
  for (int k = 0; k < r->n_elements; k++) {
    const element *const e = &r->elements[k];
    mr3d_status status = check_count(r, e);
    double *points = NULL;
    int columns = 0;
    if (status == MR3D_OK && e->vertex) {
      if (!has_columns(e, 0, 2, &missing))
        return wrong(r, "element vertex has no property %s", wanted[missing]);
      columns = has_columns(e, 3, 5, &missing) ? 6 : 3;
      points = mr3d_bundle_add(bundle, "points", MR3D_F64, 2, (int64_t[]){e->count, columns})->data;
      found = true;
    }
    for (int64_t row = 0; row < e->count && status == MR3D_OK; row++) {
      status = read_row(r, e, values);
      if (status != MR3D_OK)
        return mr3d_fail_in(r->error, "element %.64s, row %lld", e->name, (long long)row);
      if (points != NULL)
        memcpy(points + row * columns, values, (size_t)columns * sizeof *values);
    }
    if (status == MR3D_OK && columns == 6)
      status = check_colours(r, e, points);
    if (status != MR3D_OK)
      return status;
  }
  if (!found)
    return mr3d_fail(r->error, MR3D_FORMAT, "no element vertex in the header");
  r->line++; /* what follows stands behind the last row */
  if (r->encoding == ASCII)
    while (r->at < r->size && (is_blank(r->bytes[r->at]) || r->bytes[r->at] == '\n'))
      r->line += r->bytes[r->at++] == '\n';
  if (r->at < r->size)
    return wrong(r, "%zu bytes follow the last element", r->size - r->at);
  return MR3D_OK;
}

mr3d_status mr3d_ply_open(const char *path, mr3d_bundle **bundle, mr3d_error *error) {
  void *bytes;
  size_t size;
  mr3d_error problem = {0};
  mr3d_status status = mr3d_map(path, &bytes, &size, error);
  if (status != MR3D_OK)
    return status;
  reader r = {.bytes = bytes, .size = size, .c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0), .error = &problem};
  mr3d_bundle *read = mr3d_bundle_new();
  status = read_header(&r);
  if (status == MR3D_OK)
    status = read_body(&r, read);
  for (int i = 0; i < r.n_elements; i++) {
    free(r.elements[i].name);
    free(r.elements[i].properties);
  }
  free(r.elements);
  freelocale(r.c_locale);
  mr3d_unmap(bytes, size);
  if (status != MR3D_OK) {
    mr3d_bundle_free(&read);
    return mr3d_fail(error, status, "%s: %s", path, problem.message);
  }
  *bundle = read;
  return MR3D_OK;
}

/* ---- writing ---- */

mr3d_status mr3d_ply_save(const char *path, const mr3d_tensor *points, const char *comment, mr3d_error *error) {
  const int64_t N = points->shape[0], columns = points->shape[1];
  if (points->rank != 2 || (columns != 3 && columns != 6)) {
    char text[96];
    return mr3d_fail(error, MR3D_INVALID, "%s: points have shape %s; expected [N,3] or [N,6]", path,
                     mr3d_shape_text(points->rank, points->shape, text));
  }
  if (comment != NULL && (strpbrk(comment, "\r\n") != NULL || strlen(comment) > LONGEST_LINE - 16))
    return mr3d_fail(error, MR3D_INVALID, "%s: a comment is one line of at most %d bytes", path, LONGEST_LINE - 16);
  char header[LONGEST_LINE + 512];
  const int header_size =
      snprintf(header, sizeof header, "ply\nformat binary_little_endian 1.0\n%s%s%selement vertex %lld\n%s%send_header\n",
               comment != NULL ? "comment " : "", comment != NULL ? comment : "", comment != NULL ? "\n" : "", (long long)N,
               "property float x\nproperty float y\nproperty float z\n",
               columns == 6 ? "property uchar red\nproperty uchar green\nproperty uchar blue\n" : "");

  const size_t row_size = columns == 6 ? 15 : 12, size = (size_t)header_size + (size_t)N * row_size;
  double *values = mr3d_allocate(N * columns, sizeof *values);
  unsigned char *bytes = mr3d_allocate((long long)size, 1), *out = bytes + header_size;
  memcpy(bytes, header, (size_t)header_size);
  mr3d_tensor_to_double(points, values);
  mr3d_status status = MR3D_OK;
  for (int64_t i = 0; i < N * columns && status == MR3D_OK; i++) {
    const double value = values[i];
    if (i % columns < 3) {
      const float number = (float)value;
      uint32_t bits;
      memcpy(&bits, &number, sizeof bits);
      for (int shift = 0; shift < 32; shift += 8)
        *out++ = (unsigned char)(bits >> shift);
      if (number != value && !isnan(value))
        status =
            mr3d_fail(error, MR3D_INVALID, "%s: row %lld: %.17g is not exact as a float", path, (long long)(i / columns), value);
    } else if (value >= 0 && value <= 255 && value == trunc(value))
      *out++ = (unsigned char)value;
    else
      status = mr3d_fail(error, MR3D_INVALID, "%s: row %lld: colour %.17g is not a whole number of 0 .. 255", path,
                         (long long)(i / columns), value);
  }
  if (status == MR3D_OK)
    status = mr3d_write_file(path, bytes, size, error);
  free(values);
  free(bytes);
  return status;
}

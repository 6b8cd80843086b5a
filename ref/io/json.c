/** Strict JSON (json.h): a grammar check that allocates nothing, then cJSON for the tree, then the search for duplicate keys. */
#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 64
#define MAX_VALUES 10000000

typedef struct checker {
  const unsigned char *text;
  size_t size, at;
  mr3d_json_numbers numbers;
  long values;
  mr3d_error *error;
} checker;

static mr3d_status wrong(checker *c, const char *what) {
  return mr3d_fail(c->error, MR3D_FORMAT, "JSON: byte %zu: %s", c->at, what);
}

/* The byte at `at`, or -1 behind the end. */
static int peek(const checker *c) { return c->at < c->size ? c->text[c->at] : -1; }

static void skip_blanks(checker *c) {
  while (peek(c) == ' ' || peek(c) == '\t' || peek(c) == '\n' || peek(c) == '\r')
    c->at++;
}

/* Length of the UTF-8 sequence at the start of `size` > 0 bytes, 0 if there is none (Unicode standard, table 3-7). */
static size_t utf8_sequence(const unsigned char *s, size_t size) {
  if (s[0] < 0x80)
    return 1;
  if (s[0] < 0xC2 || s[0] > 0xF4)
    return 0;
  const size_t length = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
  if (size < length)
    return 0;
  const unsigned char lowest = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;  /* below: overlong */
  const unsigned char highest = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF; /* above: surrogates, or beyond U+10FFFF */
  if (s[1] < lowest || s[1] > highest)
    return 0;
  for (size_t i = 2; i < length; i++)
    if ((s[i] & 0xC0) != 0x80)
      return 0;
  return length;
}

bool mr3d_utf8_valid(const char *text, size_t size, size_t *at) {
  for (*at = 0; *at < size;) {
    const size_t length = utf8_sequence((const unsigned char *)text + *at, size - *at);
    if (length == 0)
      return false;
    *at += length;
  }
  return true;
}

/* Four hexadecimal digits at `at`, or -1. */
static int hex4(const checker *c) {
  int value = 0;
  if (c->size - c->at < 4)
    return -1;
  for (size_t i = c->at; i < c->at + 4; i++) {
    static const char digits[] = "0123456789abcdef";
    const char *const digit = c->text[i] != '\0' ? strchr(digits, c->text[i] | 0x20) : NULL; /* 0x20: lower case */
    if (digit == NULL)
      return -1;
    value = value * 16 + (int)(digit - digits);
  }
  return value;
}

static mr3d_status check_escape(checker *c) {
  c->at++;
  const int letter = peek(c);
  if (letter < 0 || strchr("\"\\/bfnrtu", letter) == NULL || letter == '\0')
    return wrong(c, "unknown escape in a string");
  c->at++;
  if (letter != 'u')
    return MR3D_OK;
  const int unit = hex4(c);
  if (unit < 0)
    return wrong(c, "\\u needs four hexadecimal digits");
  if (unit == 0)
    return wrong(c, "a string must not contain \\u0000");
  c->at += 4;
  if (unit >= 0xDC00 && unit <= 0xDFFF)
    return wrong(c, "low surrogate without a high one before it");
  if (unit >= 0xD800 && unit <= 0xDBFF) {
    if (c->size - c->at < 6 || c->text[c->at] != '\\' || c->text[c->at + 1] != 'u')
      return wrong(c, "high surrogate without a low one behind it");
    c->at += 2;
    const int low = hex4(c);
    if (low < 0xDC00 || low > 0xDFFF)
      return wrong(c, "high surrogate without a low one behind it");
    c->at += 4;
  }
  return MR3D_OK;
}

static mr3d_status check_string(checker *c) {
  for (c->at++; peek(c) != '"';) {
    if (c->at >= c->size)
      return wrong(c, "the text ends inside a string");
    if (peek(c) < 0x20)
      return wrong(c, "control character in a string");
    if (peek(c) == '\\') {
      const mr3d_status status = check_escape(c);
      if (status != MR3D_OK)
        return status;
    } else {
      const size_t length = utf8_sequence(c->text + c->at, c->size - c->at);
      if (length == 0)
        return wrong(c, "invalid UTF-8");
      c->at += length;
    }
  }
  c->at++;
  return MR3D_OK;
}

static size_t skip_digits(checker *c) {
  const size_t start = c->at;
  while (peek(c) >= '0' && peek(c) <= '9')
    c->at++;
  return c->at - start;
}

static mr3d_status check_number(checker *c) {
  const bool counts_only = c->numbers == MR3D_JSON_COUNTS_ONLY;
  const size_t start = c->at;
  if (peek(c) == '-' && !counts_only)
    c->at++;
  const int first = peek(c);
  const size_t digits = skip_digits(c);
  if (digits == 0 || (first == '0' && digits > 1))
    return wrong(c, digits > 1 ? "a number does not begin with 0" : counts_only ? "expected a whole number without a sign" : "malformed number");
  if (counts_only) {
    if (peek(c) == '.' || peek(c) == 'e' || peek(c) == 'E')
      return wrong(c, "expected a whole number without fraction or exponent");
    uint64_t value = 0;
    for (size_t i = start; i < c->at && value < UINT64_C(1) << 53; i++)
      value = value * 10 + (uint64_t)(c->text[i] - '0');
    return value < UINT64_C(1) << 53 ? MR3D_OK : wrong(c, "number is 2^53 or more");
  }
  if (peek(c) == '.') {
    c->at++;
    if (skip_digits(c) == 0)
      return wrong(c, "malformed number");
  }
  if (peek(c) == 'e' || peek(c) == 'E') {
    c->at++;
    if (peek(c) == '+' || peek(c) == '-')
      c->at++;
    if (skip_digits(c) == 0)
      return wrong(c, "malformed number");
  }
  return MR3D_OK;
}

static mr3d_status check_value(checker *c, int depth);

/* An object or array, whose opening bracket stands at `at`. */
static mr3d_status check_group(checker *c, int depth) {
  const bool object = peek(c) == '{';
  const char close = object ? '}' : ']';
  if (depth > MAX_DEPTH)
    return wrong(c, "nested more than 64 deep");
  c->at++;
  skip_blanks(c);
  if (peek(c) == close) {
    c->at++;
    return MR3D_OK;
  }
  for (;;) {
    mr3d_status status;
    if (object) {
      if (peek(c) != '"')
        return wrong(c, "expected a key in double quotes");
      if ((status = check_string(c)) != MR3D_OK)
        return status;
      skip_blanks(c);
      if (peek(c) != ':')
        return wrong(c, "expected ':' after a key");
      c->at++;
      skip_blanks(c);
    }
    if ((status = check_value(c, depth)) != MR3D_OK)
      return status;
    skip_blanks(c);
    const int next = peek(c);
    if (next != ',' && next != close)
      return wrong(c, object ? "expected ',' or '}'" : "expected ',' or ']'");
    c->at++;
    if (next == close)
      return MR3D_OK;
    skip_blanks(c);
  }
}

static mr3d_status check_value(checker *c, int depth) {
  static const char *const words[] = {"true", "false", "null"};
  if (++c->values > MAX_VALUES)
    return wrong(c, "more than ten million values");
  const int first = peek(c);
  if (first == '{' || first == '[')
    return check_group(c, depth + 1);
  if (first == '"')
    return check_string(c);
  if (first == '-' || (first >= '0' && first <= '9'))
    return check_number(c);
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    const size_t length = strlen(words[i]);
    if (c->size - c->at >= length && memcmp(c->text + c->at, words[i], length) == 0) {
      c->at += length;
      return MR3D_OK;
    }
  }
  return wrong(c, first < 0 ? "the text ends where a value should stand" : "expected a value");
}

static int by_text(const void *left, const void *right) { return strcmp(*(char *const *)left, *(char *const *)right); }

/* Keys are compared after escapes are resolved: "a" and "\u0061" are the same key. Depth was bounded above. */
static mr3d_status refuse_duplicates(const cJSON *group, mr3d_error *error) {
  mr3d_status status = MR3D_OK;
  if (cJSON_IsObject(group)) {
    long long count = 0, i = 0;
    for (const cJSON *member = group->child; member != NULL; member = member->next)
      count++;
    char **keys = mr3d_allocate(count, sizeof *keys);
    for (const cJSON *member = group->child; member != NULL; member = member->next)
      keys[i++] = member->string;
    qsort(keys, (size_t)count, sizeof *keys, by_text);
    for (i = 1; i < count && status == MR3D_OK; i++)
      if (strcmp(keys[i - 1], keys[i]) == 0)
        status = mr3d_fail(error, MR3D_FORMAT, "JSON: key \"%.200s\" appears twice in one object", keys[i]);
    free(keys);
  }
  for (const cJSON *member = group->child; member != NULL && status == MR3D_OK; member = member->next)
    if (member->child != NULL)
      status = refuse_duplicates(member, error);
  return status;
}

mr3d_status mr3d_json_parse(const char *text, size_t size, mr3d_json_numbers numbers, cJSON **object, mr3d_error *error) {
  checker c = {(const unsigned char *)text, size, 0, numbers, 0, error};
  skip_blanks(&c);
  if (peek(&c) != '{')
    return wrong(&c, "expected an object");
  const size_t start = c.at;
  mr3d_status status = check_value(&c, 0);
  if (status != MR3D_OK)
    return status;
  const size_t end = c.at;
  skip_blanks(&c);
  if (c.at < size)
    return wrong(&c, "something follows the object");

  cJSON *parsed = cJSON_ParseWithLength(text + start, end - start);
  if (parsed == NULL)
    return mr3d_fail(error, MR3D_FORMAT, "JSON: cannot be read (out of memory?)");
  if ((status = refuse_duplicates(parsed, error)) != MR3D_OK) {
    cJSON_Delete(parsed);
    return status;
  }
  *object = parsed;
  return MR3D_OK;
}

bool mr3d_json_is_count(const cJSON *value, int64_t *count) {
  if (!cJSON_IsNumber(value) || !(value->valuedouble >= 0 && value->valuedouble < 0x1p53) ||
      value->valuedouble != trunc(value->valuedouble))
    return false;
  *count = (int64_t)value->valuedouble;
  return true;
}

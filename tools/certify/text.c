#include "text.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "file.h"
#include "report.h"

mr3d_status mr3d_text_keys(const cJSON *object, const char *place, const char *const keys[], mr3d_error *error) {
  if (!cJSON_IsObject(object)) return mr3d_fail(error, MR3D_FORMAT, "%s: expected a JSON object", place);
  for (int k = 0; keys[k]; k++)
    if (!cJSON_GetObjectItemCaseSensitive(object, keys[k])) return mr3d_fail(error, MR3D_FORMAT, "%s: \"%s\" is missing", place, keys[k]);
  int k = 0;
  for (const cJSON *item = object->child; item; item = item->next) {
    bool known = false;
    for (int i = 0; keys[i] && !known; i++) known = strcmp(keys[i], item->string) == 0;
    if (!known) return mr3d_fail(error, MR3D_FORMAT, "%s: unknown key \"%.60s\"", place, item->string);
    if (strcmp(item->string, keys[k++]) != 0) return mr3d_fail(error, MR3D_FORMAT, "%s: \"%s\" is not in its place; the order of keys is fixed", place, item->string);
  }
  return MR3D_OK;
}

bool mr3d_text_is_digest(const char *text) { return strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64; }

void mr3d_text_digest(const void *bytes, size_t size, char hex[65]) {
  unsigned char digest[crypto_hash_sha256_BYTES];
  crypto_hash_sha256(digest, bytes, size);
  sodium_bin2hex(hex, 65, digest, sizeof digest);
}

mr3d_status mr3d_text_digest_file(const char *path, char hex[65], size_t *size, mr3d_error *error) {
  void *bytes;
  size_t n;
  mr3d_status status = mr3d_map(path, &bytes, &n, error);
  if (status != MR3D_OK) return status;
  mr3d_text_digest(bytes, n, hex);
  mr3d_unmap(bytes, n);
  if (size) *size = n;
  return MR3D_OK;
}

char *mr3d_text_to_base64(const void *bytes, size_t size) {
  size_t length = sodium_base64_ENCODED_LEN(size, sodium_base64_VARIANT_ORIGINAL);
  return sodium_bin2base64(mr3d_allocate((long long)length, 1), length, bytes, size, sodium_base64_VARIANT_ORIGINAL);
}

mr3d_status mr3d_text_from_base64(const cJSON *text, const char *place, char **out, size_t *size, mr3d_error *error) {
  if (!cJSON_IsString(text)) return mr3d_fail(error, MR3D_FORMAT, "%s must be a text in base64", place);
  size_t length = strlen(text->valuestring), n = 0;
  char *bytes = mr3d_allocate((long long)length + 1, 1);
  if (sodium_base642bin((unsigned char *)bytes, length, text->valuestring, length, NULL, &n, NULL, sodium_base64_VARIANT_ORIGINAL) != 0) {
    free(bytes);
    return mr3d_fail(error, MR3D_FORMAT, "%s is not base64 (RFC 4648, with padding)", place);
  }
  bytes[n] = '\0';
  *out = bytes, *size = n;
  return MR3D_OK;
}

char *mr3d_text_line(const char *text) {
  char *clean = mr3d_clean_text(text);
  for (char *c = clean; *c; c++)
    if (*c == '\n' || *c == '\t') *c = ' ';
  return clean;
}

void mr3d_text_add(cJSON *object, const char *key, const char *text) {
  char *line = mr3d_text_line(text);
  cJSON_AddStringToObject(object, key, line);
  free(line);
}

static bool is_plain(const char *text) {
  char *line = mr3d_text_line(text);
  const bool plain = strcmp(line, text) == 0;
  free(line);
  return plain;
}

bool mr3d_text_is_plain(const cJSON *item) {
  if ((item->string && !is_plain(item->string)) || (cJSON_IsString(item) && !is_plain(item->valuestring))) return false;
  for (const cJSON *child = item->child; child; child = child->next)
    if (!mr3d_text_is_plain(child)) return false;
  return true;
}

void mr3d_text_now(char text[32]) {
  time_t now = time(NULL);
  struct tm utc;
  gmtime_r(&now, &utc);
  strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

bool mr3d_text_is_date(const char *text, bool with_time) {
  const char *const form = with_time ? "%Y-%m-%dT%H:%M:%SZ" : "%Y-%m-%d";
  struct tm given = {0}, same;
  char again[32];
  const char *end = strptime(text, form, &given);
  if (!end || *end) return false;
  same = given;
  const time_t moment = timegm(&same);
  return moment != -1 && gmtime_r(&moment, &same) && strftime(again, sizeof again, form, &same) > 0 && strcmp(again, text) == 0; /* there is one way to write it, and it is in the calendar */
}

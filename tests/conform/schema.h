/** Whether JSON keeps to a schema of docs/: types, words, keys described and keys required. */
#ifndef MR3D_TEST_SCHEMA_H
#define MR3D_TEST_SCHEMA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

/** The schema of that file name in $MR3D_DOCS; the caller's. */
static inline cJSON *read_schema(const char *name) {
  assert_non_null(getenv("MR3D_DOCS"));
  char path[4096];
  static char text[1 << 16];
  snprintf(path, sizeof path, "%s/%s", getenv("MR3D_DOCS"), name);
  FILE *file = fopen(path, "rb");
  if (!file) fail_msg("%s cannot be read", path);
  text[fread(text, 1, sizeof text - 1, file)] = '\0';
  fclose(file);
  cJSON *schema = cJSON_Parse(text);
  if (!schema) fail_msg("%s is no JSON", path);
  return schema;
}

/** Every key that the value holds is described, and every required one is there. */
static inline void check_against(const cJSON *value, const cJSON *schema, const cJSON *root, const char *place) {
  const cJSON *reference = cJSON_GetObjectItem(schema, "$ref");
  if (reference) schema = cJSON_GetObjectItem(cJSON_GetObjectItem(root, "$defs"), strrchr(reference->valuestring, '/') + 1);
  assert_non_null(schema);
  const cJSON *type = cJSON_GetObjectItem(schema, "type"), *properties = cJSON_GetObjectItem(schema, "properties"),
              *words = cJSON_GetObjectItem(schema, "enum"), *item;
  if (type) {
    const char *is = cJSON_IsObject(value)   ? "object"
                     : cJSON_IsArray(value)  ? "array"
                     : cJSON_IsString(value) ? "string"
                     : cJSON_IsBool(value)   ? "boolean"
                     : cJSON_IsNumber(value) ? "number"
                                             : "null";
    bool fits = false;
    for (item = cJSON_IsArray(type) ? type->child : type; item; item = cJSON_IsArray(type) ? item->next : NULL)
      fits = fits || strcmp(is, item->valuestring) == 0 || (strcmp(item->valuestring, "integer") == 0 && cJSON_IsNumber(value));
    if (!fits) fail_msg("%s is %s, which the schema does not say", place, is);
  }
  if (words) {
    bool known = false;
    cJSON_ArrayForEach (item, words) known = known || cJSON_Compare(item, value, true);
    if (!known) fail_msg("%s is none of the schema's words", place);
  }
  if (properties) {
    cJSON_ArrayForEach (item, value) {
      const cJSON *inner = cJSON_GetObjectItemCaseSensitive(properties, item->string);
      if (!inner) fail_msg("%s.%s is not in the schema", place, item->string);
      char deeper[200];
      snprintf(deeper, sizeof deeper, "%.120s.%s", place, item->string);
      check_against(item, inner, root, deeper);
    }
    cJSON_ArrayForEach (item, cJSON_GetObjectItem(schema, "required"))
      if (!cJSON_GetObjectItemCaseSensitive(value, item->valuestring)) fail_msg("%s lacks %s", place, item->valuestring);
  }
  const cJSON *items = cJSON_GetObjectItem(schema, "items");
  if (items)
    cJSON_ArrayForEach (item, value) check_against(item, items, root, place);
}

#endif

/** Texts of a backend's in JSON: whatever it wrote, the result is valid. */
#ifndef MR3D_CONFORM_REPORT_JSON_H
#define MR3D_CONFORM_REPORT_JSON_H

#include <cjson/cJSON.h>

/** Adds a text, cleaned (mr3d_clean_text). */
void mr3d_json_add_text(cJSON *object, const char *key, const char *text);
/** Adds a list joined by "; " (NULL: empty) as an array of texts. */
void mr3d_json_add_list(cJSON *object, const char *key, const char *joined);

#endif

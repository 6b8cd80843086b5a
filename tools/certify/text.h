/** Small things that all signed files need: strict keys, base64, digests, compression, dates. */
#ifndef MR3D_CERTIFY_TEXT_H
#define MR3D_CERTIFY_TEXT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

#include "mr3d/status.h"

/** An object must have exactly these keys, in this order; `keys` ends with NULL. Errors (MR3D_FORMAT): "PLACE: KEY is missing" ... */
mr3d_status mr3d_text_keys(const cJSON *object, const char *place, const char *const keys[], mr3d_error *);

/** 64 lower-case hexadecimal digits. */
bool mr3d_text_is_digest(const char *text);
/** SHA-256 in hexadecimal. */
void mr3d_text_digest(const void *bytes, size_t size, char hex[65]);
/** Of a file; `size` (may be NULL) is its size. */
mr3d_status mr3d_text_digest_file(const char *path, char hex[65], size_t *size, mr3d_error *);

/** RFC 4648 section 4, with padding. Ownership: the caller's. */
char *mr3d_text_to_base64(const void *bytes, size_t size);
/** Decodes a JSON string, strictly; a zero follows the bytes. Errors: no string, or not base64, at `place`. */
mr3d_status mr3d_text_from_base64(const cJSON *text, const char *place, char **bytes, size_t *size, mr3d_error *);

/** A text as one line: cleaned (mr3d_clean_text), line breaks and tabs turned to blanks. Ownership: the caller's. */
char *mr3d_text_line(const char *text);
/** Adds a text as one line. */
void mr3d_text_add(cJSON *object, const char *key, const char *text);
/** Whether each text and key in a tree is such a line already: others could write over a terminal's lines. */
bool mr3d_text_is_plain(const cJSON *);

/** "2026-11-29T06:00:00Z", now. */
void mr3d_text_now(char text[32]);
/** Whether it is a date "2026-11-29", or with `time` a moment as above, of the calendar. */
bool mr3d_text_is_date(const char *text, bool time);

#endif

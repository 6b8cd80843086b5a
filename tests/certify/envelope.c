/** DSSE envelopes: the specification's own vector, and that there is one way to write one. */
#include "certified.h"

/** From the DSSE protocol: the bytes that are signed. */
static void signed_bytes_are_those_of_the_specification(void **state) {
  (void)state;
  size_t size;
  mr3d_envelope *envelope = mr3d_envelope_new("http://example.com/HelloWorld", "hello world", 11);
  char *bytes = mr3d_envelope_signed_bytes(envelope, &size);
  assert_string_equal(bytes, "DSSEv1 29 http://example.com/HelloWorld 11 hello world");
  assert_int_equal(size, strlen(bytes));
  free(bytes);
  mr3d_envelope_free(&envelope);
}

static void what_is_written_is_read(void **state) {
  (void)state;
  mr3d_error error = {0};
  mr3d_secret_key a, b, c;
  assert_int_equal(mr3d_secret_key_draw(&a, &error), MR3D_OK);
  assert_int_equal(mr3d_secret_key_draw(&b, &error), MR3D_OK);
  assert_int_equal(mr3d_secret_key_draw(&c, &error), MR3D_OK);
  mr3d_envelope *envelope = mr3d_envelope_new("text/plain", "a\0b", 3), *read = NULL;
  assert_int_equal(mr3d_envelope_sign(envelope, &a, &error), MR3D_OK);
  assert_int_equal(mr3d_envelope_sign(envelope, &b, &error), MR3D_OK);
  assert_int_equal(mr3d_envelope_sign(envelope, &a, &error), MR3D_INVALID);
  assert_non_null(strstr(error.message, "already"));
  char *text = mr3d_envelope_print(envelope);
  assert_int_equal(mr3d_envelope_parse(text, strlen(text), &read, &error), MR3D_OK);
  assert_int_equal(read->size, 3);
  assert_memory_equal(read->payload, "a\0b", 3);
  assert_string_equal(read->type, "text/plain");
  assert_int_equal(mr3d_envelope_check(read, &a.public, &error), MR3D_OK);
  assert_int_equal(mr3d_envelope_check(read, &b.public, &error), MR3D_OK);
  assert_int_equal(mr3d_envelope_check(read, &c.public, &error), MR3D_UNSUPPORTED);
  read->payload[1] = 1;
  assert_int_equal(mr3d_envelope_check(read, &a.public, &error), MR3D_INVALID);
  free(text);
  mr3d_envelope_free(&envelope), mr3d_envelope_free(&read);
}

#define KEY "1dc7ab79177cd22504026c6025e7c63ffcb278985af69a6bf5a7037b11dbce3e"
#define LATER "2dc7ab79177cd22504026c6025e7c63ffcb278985af69a6bf5a7037b11dbce3e"
#define SIG "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="
#define SIGNED(signatures) "{\"payload\": \"e30=\", \"payloadType\": \"a\", \"signatures\": [" signatures "]}"
#define BY(key) "{\"keyid\": \"" key "\", \"sig\": \"" SIG "\"}"

static void there_is_one_way_to_write_an_envelope(void **state) {
  (void)state;
  static const struct { const char *text, *says; } wrong[] = {
      {"", "envelope"}, {"[]", "envelope"}, {"{}", "\"payload\" is missing"}, {SIGNED(BY(KEY)) "x", "envelope"},
      {"{\"payload\": \"e30=\", \"payloadType\": \"a\", \"signatures\": [" BY(KEY) "], \"more\": 1}", "unknown key \"more\""},
      {"{\"payloadType\": \"a\", \"payload\": \"e30=\", \"signatures\": [" BY(KEY) "]}", "not in its place"},
      {"{\"payload\": \"e30=\", \"payload\": \"e30=\", \"payloadType\": \"a\", \"signatures\": [" BY(KEY) "]}", "appears twice"},
      {"{\"payload\": \"e30\", \"payloadType\": \"a\", \"signatures\": [" BY(KEY) "]}", "is not base64"},
      {"{\"payload\": \"e3 0=\", \"payloadType\": \"a\", \"signatures\": [" BY(KEY) "]}", "is not base64"},
      {"{\"payload\": \"e31=\", \"payloadType\": \"a\", \"signatures\": [" BY(KEY) "]}", "is not base64"}, /* bits that nothing stands for */
      {"{\"payload\": 1, \"payloadType\": \"a\", \"signatures\": [" BY(KEY) "]}", "must be a text in base64"},
      {"{\"payload\": \"e30=\", \"payloadType\": \"\", \"signatures\": [" BY(KEY) "]}", "payloadType must be a text"},
      {SIGNED(""), "an envelope without signatures proves nothing"}, {SIGNED("1"), "expected a JSON object"},
      {SIGNED("{\"keyid\": \"" KEY "\"}"), "\"sig\" is missing"}, {SIGNED("{\"sig\": \"" SIG "\", \"keyid\": \"" KEY "\"}"), "not in its place"},
      {SIGNED("{\"keyid\": \"1DC7\", \"sig\": \"" SIG "\"}"), "keyid must be 64 lower-case"}, {SIGNED("{\"keyid\": \"" KEY "\", \"sig\": \"e30=\"}"), "a signature has 2 bytes"},
      {SIGNED(BY(KEY) ", " BY(KEY)), "has signed twice"}, {SIGNED(BY(LATER) ", " BY(KEY)), "ascending order"},
      {"{\"payload\": \"e30=\", \"payloadType\": \"a\", \"signatures\": {}}", "signatures must be a list"}};
  mr3d_envelope *envelope = NULL;
  mr3d_error error = {0};
  assert_int_equal(mr3d_envelope_parse(SIGNED(BY(KEY) ", " BY(LATER)), strlen(SIGNED(BY(KEY) ", " BY(LATER))), &envelope, &error), MR3D_OK);
  mr3d_envelope_free(&envelope);
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    if (mr3d_envelope_parse(wrong[i].text, strlen(wrong[i].text), &envelope, &error) == MR3D_OK) fail_msg("accepted: %s", wrong[i].text);
    if (!strstr(error.message, wrong[i].says)) fail_msg("%s: \"%s\" is not said, but: %s", wrong[i].text, wrong[i].says, error.message);
  }
}

static void any_bytes_are_refused_or_read(void **state) {
  (void)state;
  const char good[] = SIGNED(BY(KEY));
  char bytes[sizeof good];
  mr3d_error error = {0};
  for (size_t i = 0; i < sizeof good - 1; i++)
    for (int c = 0; c < 256; c += 5) {
      mr3d_envelope *envelope = NULL;
      memcpy(bytes, good, sizeof good);
      bytes[i] = (char)c;
      mr3d_envelope_parse(bytes, sizeof good - 1, &envelope, &error);
      mr3d_envelope_free(&envelope);
      mr3d_envelope_parse(bytes, i, &envelope, &error);
      assert_null(envelope);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(signed_bytes_are_those_of_the_specification), cmocka_unit_test(what_is_written_is_read),
                                     cmocka_unit_test(there_is_one_way_to_write_an_envelope), cmocka_unit_test(any_bytes_are_refused_or_read)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}

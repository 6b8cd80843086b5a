/* A backend that answers before it has read: it writes as many bytes as the request holds while most of the request is still in the pipe.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void transfer(int fd, char *bytes, size_t size) {
  for (size_t done = 0; done < size;) {
    ssize_t n = fd == 0 ? read(0, bytes + done, size - done) : write(1, bytes + done, size - done);
    if (n <= 0) exit(1);
    done += (size_t)n;
  }
}

static void say(const char *header, char *data, size_t size) {
  uint64_t length = strlen(header), frame = 8 + length + size;
  transfer(1, (char *)&frame, 8);
  transfer(1, (char *)&length, 8);
  char *text = strdup(header);
  transfer(1, text, length);
  free(text);
  transfer(1, data, size);
}

int main(void) {
  uint64_t size;
  static char bytes[1 << 16];
  transfer(0, (char *)&size, 8);
  transfer(0, bytes, size);
  say("{\"__metadata__\":{\"protocol\":\"1\",\"type\":\"hello\",\"name\":\"slow\",\"version\":\"1\",\"ops\":\"[\\\"linear\\\"]\",\"tiers\":"
      "\"[\\\"fp32\\\"]\"}}",
      NULL, 0);
  transfer(0, (char *)&size, 8);
  char header[256], *data = calloc(size, 1);
  snprintf(header, sizeof header,
           "{\"__metadata__\":{\"protocol\":\"1\",\"type\":\"answer\",\"id\":\"1\"},\"y\":{\"dtype\":\"U8\",\"shape\":[%llu],\"data_"
           "offsets\":[0,%llu]}}",
           (unsigned long long)size, (unsigned long long)size);
  say(header, data, size);      /* only then ... */
  transfer(0, data, size);      /* ... is the request read */
  transfer(0, (char *)&size, 8); /* bye */
  free(data);
  return 0;
}

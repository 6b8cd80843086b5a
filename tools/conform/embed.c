/** Build tool: prints files as C character arrays, so that the program needs none of them beside it. Usage: embed NAME FILE [NAME FILE ...] */
#include <stdio.h>

int main(int argc, char **argv) {
  for (int i = 1; i + 1 < argc; i += 2) {
    FILE *file = fopen(argv[i + 1], "rb");
    if (!file) {
      perror(argv[i + 1]);
      return 1;
    }
    printf("extern const char mr3d_embedded_%s[];\nconst char mr3d_embedded_%s[] = {", argv[i], argv[i]);
    for (int c, n = 0; (c = fgetc(file)) != EOF; n++) printf("%s%d,", n % 24 ? "" : "\n", c > 127 ? c - 256 : c);
    printf("\n0};\n");
    fclose(file);
  }
  return 0;
}

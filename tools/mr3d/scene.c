/** mr3d scene: writes a scan of a generated room; without options the canonical scene. */
#include "command.h"
#include "mr3d/ply.h"
#include "room.h"

int mr3d_command_scene(int argc, char **argv) {
  mr3d_room_parameters room = mr3d_room_canonical();
  const char *output = NULL;
  const mr3d_option options[] = {
      {"-o", "FILE.ply", MR3D_OPTION_TEXT, &output, "the scan: binary_little_endian, float x y z, uchar red green blue"},
      {"--seed", "N", MR3D_OPTION_SEED, &room.seed, "directions, noise and dropouts (default 0)"},
      {"--rays", "N", MR3D_OPTION_COUNT, &room.rays, "rows of the scan, one a ray, with or without a return (106328)"},
      {"--length", "M", MR3D_OPTION_NUMBER, &room.length, "inner size along x, metres (5.96)"},
      {"--width", "M", MR3D_OPTION_NUMBER, &room.width, "inner size along y (3.54)"},
      {"--height", "M", MR3D_OPTION_NUMBER, &room.height, "inner size along z (2.75)"},
      {"--noise", "M", MR3D_OPTION_NUMBER, &room.noise, "standard deviation of the range, metres (0.002)"},
      {"--noise-per-m2", "X", MR3D_OPTION_NUMBER, &room.noise_per_m2, "what range squared adds to it (0.0004)"},
      {"--dropout", "SHARE", MR3D_OPTION_NUMBER, &room.dropout, "rays that return nothing for no visible reason (0.03)"},
      {NULL}};
  const mr3d_usage usage = {
      .line = "mr3d scene -o FILE.ply [OPTION ...]",
      .text = "Writes what two stations of a laser scanner see of a furnished room. The same options give the same bytes on every machine;\n"
              "without options it is the canonical scene of the golden set: 106,328 rows, 556 tokens.\n"};
  int n = 0;
  const int status = mr3d_options_parse(&usage, options, argc, argv, &n);
  if (status >= 0) return status;
  if (!output) return mr3d_complain("-o is missing: where should the scan go?\nUsage: %s", usage.line);

  mr3d_error error = {0};
  mr3d_bundle *scan = NULL;
  if (mr3d_room_scan(&room, &scan, &error) == MR3D_OK)
    mr3d_ply_save(output, mr3d_bundle_find(scan, "points"), "MixedRoPE3D room, made by mr3d scene", &error);
  mr3d_bundle_free(&scan);
  if (error.status) return mr3d_complain("%s", error.message);
  printf("%s: %lld rows\n", output, (long long)room.rays);
  return 0;
}

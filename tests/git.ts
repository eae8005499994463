/** git as tests call it: with a name of its own, and without the files and processes that look after a repository. */

const settings = {
  "maintenance.auto": "false", "gc.auto": "0", "receive.autogc": "false", "core.fsync": "none", "core.logAllRefUpdates": "false",
};

export const GIT_ENV: Record<string, string> = {
  GIT_AUTHOR_NAME: "T", GIT_AUTHOR_EMAIL: "t@test.invalid", GIT_COMMITTER_NAME: "T", GIT_COMMITTER_EMAIL: "t@test.invalid",
  GIT_TEMPLATE_DIR: "", // no sample of a hook in each repository
  GIT_CONFIG_COUNT: `${Object.keys(settings).length}`,
  ...Object.fromEntries(Object.entries(settings).flatMap(([key, value], nth) =>
    [[`GIT_CONFIG_KEY_${nth}`, key], [`GIT_CONFIG_VALUE_${nth}`, value]])),
};

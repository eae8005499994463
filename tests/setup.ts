/** Loaded before each test file. */
import { setDefaultTimeout } from "bun:test";
import "./packages.ts";

// where it is not set, Bun has UTC in tests, and the program the machine's own
process.env.TZ ??= "UTC";

/** ms; Bun's own 5 s are a limit for a machine at rest. What waits for something has its own limit. */
setDefaultTimeout(300_000);

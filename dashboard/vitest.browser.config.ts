import { defineConfig } from 'vitest/config';

// The real dashboard in a real Chromium against the real server at ATOLL_URL (scripts/with-atoll.sh starts one).
// Time limits are for what never comes: a slow machine is no failure.
export default defineConfig({
	test: {
		include: ['tests/**/*.test.ts'],
		environment: 'node',
		globalSetup: ['tests/front.ts'],
		fileParallelism: false,
		// The files run in the same order everywhere, whatever took how long before.
		cache: false,
		expect: { poll: { timeout: 30_000 } },
		// As with nextest: what passes only at the second attempt is named at the end of scripts/test.sh.
		retry: 1,
		testTimeout: 180_000,
		hookTimeout: 180_000
	}
});

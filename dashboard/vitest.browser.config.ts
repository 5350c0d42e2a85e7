import { defineConfig } from 'vitest/config';

// The real dashboard in a real Chromium against the real server at ATOLL_URL (scripts/with-atoll.sh starts one).
export default defineConfig({
	test: {
		include: ['tests/**/*.test.ts'],
		environment: 'node',
		fileParallelism: false,
		testTimeout: 60_000,
		hookTimeout: 60_000
	}
});

import adapter from '@sveltejs/adapter-static';
import { vitePreprocess } from '@sveltejs/vite-plugin-svelte';

/** @type {import('@sveltejs/kit').Config} */
export default {
	preprocess: vitePreprocess(),
	compilerOptions: { runes: true },
	kit: {
		// One page for every address: the control plane answers it wherever no file is.
		adapter: adapter({ fallback: 'index.html' }),
		paths: { relative: false },
		alias: { $components: 'src/lib/components', $api: 'src/lib/api' },
		version: { pollInterval: 0 },
		output: { preloadStrategy: 'modulepreload' }
	}
};

import { sveltekit } from '@sveltejs/kit/vite';
import tailwindcss from '@tailwindcss/vite';
import type { Plugin } from 'vite';
import { defineConfig } from 'vitest/config';

// `npm run dev` asks a running Atoll; scripts/quickstart.sh starts one.
const server = process.env.ATOLL_URL ?? 'http://127.0.0.1:7420';
const proxy = Object.fromEntries(
	['/v1', '/openapi.json', '/docs'].map((path) => [path, { target: server, ws: path === '/v1' }])
);

/** SvelteKit's root component has one inline style, which the Content-Security-Policy forbids; src/app.css has it. */
const withoutInlineStyle: Plugin = {
	name: 'without-inline-style',
	enforce: 'pre',
	transform(code, id) {
		if (!/\/generated\/root\.svelte$/.test(id)) return undefined;
		const changed = code.replace(/(id="svelte-announcer"[^>]*?) style="[^"]*"/, '$1');
		if (changed === code) this.error('the announcer has changed: look at its styles again');
		return changed;
	}
};

/** So has bits-ui's command list, where a class does the same. */
const withClassesInBits: Plugin = {
	name: 'with-classes-in-bits-ui',
	enforce: 'pre',
	transform(code, id) {
		if (!/bits-ui\/dist\/bits\/command\/.*\.svelte$/.test(id)) return undefined;
		return code.replaceAll('style="display: contents;"', 'class="contents"');
	}
};

export default defineConfig({
	plugins: [tailwindcss(), withoutInlineStyle, withClassesInBits, sveltekit()],
	server: { proxy, watch: { ignored: ['**/build/**', '**/screenshots/**'] } },
	build: {
		assetsInlineLimit: 0,
		// Icons are a few lines each: in files of their own, asking for them would cost more than they do.
		rolldownOptions: {
			output: { codeSplitting: { groups: [{ name: 'icons', test: /@lucide[\\/]svelte/ }] } }
		}
	},
	test: { include: ['src/**/*.test.ts'], environment: 'node' }
});

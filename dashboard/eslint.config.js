import js from '@eslint/js';
import svelte from 'eslint-plugin-svelte';
import globals from 'globals';
import ts from 'typescript-eslint';

import svelteConfig from './svelte.config.js';

export default ts.config(
	{ ignores: ['build/', '.svelte-kit/', 'node_modules/', 'src/lib/api/schema.d.ts'] },
	js.configs.recommended,
	...ts.configs.strict,
	...svelte.configs.recommended,
	{
		languageOptions: { globals: { ...globals.browser, ...globals.node } },
		rules: {
			'no-undef': 'off',
			// Addresses are plain paths: the control plane serves the dashboard at / and nowhere else, and the tests
			// in the browser follow every link.
			'svelte/no-navigation-without-resolve': 'off',
			// Sets and maps are replaced as a whole ($state.raw), never changed in place where somebody looks.
			'svelte/prefer-svelte-reactivity': 'off',
			'no-restricted-globals': [
				'error',
				{
					name: 'localStorage',
					message: 'Nothing secret goes there; preferences go through $lib/preferences.'
				}
			]
		}
	},
	{ files: ['static/theme.js'], rules: { 'no-restricted-globals': 'off' } },
	{
		files: ['**/*.svelte', '**/*.svelte.ts'],
		languageOptions: {
			parserOptions: { parser: ts.parser, extraFileExtensions: ['.svelte'], svelteConfig }
		}
	}
);

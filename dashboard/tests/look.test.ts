// Every page in both themes and three widths: pictures for people, axe on each, no complaint in the console, nothing wider
// than the screen.
import { afterAll, beforeAll, expect, it } from 'vitest';

import { api, enter, inspect, useBrowser, withPage } from './harness';

useBrowser();

const PAGES = [
	'/dashboard/sandboxes',
	'/dashboard/templates',
	'/dashboard/snapshots',
	'/dashboard/volumes',
	'/dashboard/secrets',
	'/dashboard/usage',
	'/dashboard/webhooks',
	'/dashboard/keys',
	'/dashboard/team',
	'/dashboard/audit',
	'/dashboard/settings',
	'/admin/hosts',
	'/admin/teams',
	'/admin/users',
	'/admin/sandboxes',
	'/admin/audit'
];
const BELOW = ['', '/metrics', '/files', '/processes', '/logs', '/events', '/terminal'];

let id = '';
beforeAll(async () => {
	const made = ['a', 'b', 'c'].map((task) =>
		api<{ id: string }>('POST', '/v1/sandboxes', { memory_mb: 128, metadata: { task, owner: 'ana' } })
	);
	id = (await Promise.all(made))[0]?.id ?? '';
});
afterAll(async () => {
	const { items } = await api<{ items: { id: string }[] }>('GET', '/v1/sandboxes');
	await Promise.all(items.map((one) => api('DELETE', `/v1/sandboxes/${one.id}`)));
});

it.each([
	['dark', 390],
	['dark', 1280],
	['dark', 1920],
	['light', 390],
	['light', 1280],
	['light', 1920]
] as const)(
	'is whole in %s at %d pixels',
	(scheme, width) =>
		withPage(
			async (page) => {
				await enter(page);
				for (const path of [...PAGES, ...BELOW.map((below) => `/dashboard/sandboxes/${id}${below}`)]) {
					await page.goto(path);
					await page.locator('h1').first().waitFor();
					await expect.poll(() => page.locator('[aria-busy=true]').count(), { timeout: 15_000 }).toBe(0);
					if (path.endsWith('/terminal'))
						await page.locator('.xterm-rows').getByText('user@').first().waitFor();
					const name = path.replace(`/${id}`, '/one').slice(1).replaceAll('/', '-');
					await inspect(page, `${name}-${scheme}-${width}`);
					expect(
						await page.evaluate('document.documentElement.scrollWidth > innerWidth'),
						`${path} is wider than ${width} pixels`
					).toBe(false);
				}
			},
			{ scheme, width }
		),
	120_000
);

// Every page in both themes and three widths: pictures for people, axe on each, no complaint in the console, nothing wider
// than the screen.
import { afterAll, beforeAll, expect, it } from 'vitest';

import type { Page } from 'playwright-core';

import { admin, api, enter, inspect, useBrowser, withPage } from './harness';
import { Own } from './own';

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
	'/dashboard/byoc',
	'/device',
	'/admin/hosts',
	'/admin/teams',
	'/admin/users',
	'/admin/sandboxes',
	'/admin/audit'
];
/** Those of them that have rows here. */
const LISTS = PAGES.filter((path) =>
	/(sandboxes|templates|keys|team|teams|audit|byoc|hosts|users)$/.test(path)
);
const LOOKS = [
	['dark', 390],
	['dark', 1280],
	['dark', 1920],
	['light', 390],
	['light', 1280],
	['light', 1920]
] as const;
/** What is seen by those who have not signed in. */
const OUTSIDE = ['/login', '/signup', '/reset', '/invite', '/nowhere'];
const BELOW = ['', '/metrics', '/files', '/processes', '/logs', '/events', '/terminal'];

/** Many pages in one test: each has the time of a test of its own. */
const MINUTES = 900_000;

/** The smallest text that is seen, in pixels. */
const SMALLEST = `(() => {
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	let smallest = 99;
	while (walk.nextNode()) {
		const of = walk.currentNode.parentElement;
		if (walk.currentNode.data.trim() === '' || !of.checkVisibility() || of.closest('.sr-only')) continue;
		smallest = Math.min(smallest, parseFloat(getComputedStyle(of).fontSize));
	}
	return smallest;
})()`;
const WIDEST = `Math.max(0, ...[...document.querySelectorAll('#content table')].map((one) => one.offsetWidth))`;

/** Columns whose names are cut, and first ones with no room for what a row is called by. */
const NARROW = `[...document.querySelectorAll('#content thead tr')].flatMap((head) => {
	const named = [...head.children].filter((th) => th.offsetWidth > 0 && th.querySelector('span:not(.sr-only)'));
	return named.filter((th, at) => th.scrollWidth > th.clientWidth || (at === 0 && th.offsetWidth < 120))
		.map((th) => th.textContent.trim() + ' ' + th.offsetWidth);
})`;

const fresh = new Own();
let id = '';
let team = '';
beforeAll(async () => {
	await fresh.start();
	const made = ['a', 'b', 'c'].map((task) =>
		api<{ id: string }>('POST', '/v1/sandboxes', { memory_mb: 128, metadata: { task, owner: 'ana' } })
	);
	id = (await Promise.all(made))[0]?.id ?? '';
	// They are on the platform's host; a team's own hosts are its only ones from the first on.
	team = (await admin<{ team_id: string }>('GET', '/v1/me')).team_id;
	await admin('PUT', `/v1/admin/teams/${team}/byoc`, { enabled: true });
	await admin('POST', '/v1/hosts', {
		type: 'byoc',
		team_id: team,
		name: 'a-machine-with-a-long-name-under-somebodys-desk',
		provider: 'own rack',
		availability_zone: 'cellar'
	});
});
afterAll(async () => {
	await fresh.remove();
	const hosts = await admin<{ items: { id: string; type: string }[] }>('GET', '/v1/admin/hosts');
	const brought = hosts.items.filter(({ type }) => type === 'byoc');
	await Promise.all(brought.map((host) => admin('DELETE', `/v1/hosts/${host.id}?force=true`)));
	await admin('PUT', `/v1/admin/teams/${team}/byoc`, { enabled: false });
	const { items } = await api<{ items: { id: string }[] }>('GET', '/v1/sandboxes');
	await Promise.all(items.map((one) => api('DELETE', `/v1/sandboxes/${one.id}`)));
});

async function look(page: Page, path: string, name: string, width: number): Promise<void> {
	await page.goto(path);
	await page.locator('h1').first().waitFor();
	await expect.poll(() => page.locator('[aria-busy=true]').count()).toBe(0);
	if (path.endsWith('/terminal')) await page.locator('.xterm-rows').getByText('user@').first().waitFor();
	await inspect(page, name);
	expect(await page.evaluate(NARROW), `columns of ${path}`).toEqual([]);
	expect(await page.evaluate(SMALLEST), `text of ${path} is too small to read`).toBeGreaterThanOrEqual(11);
	// Wider, and the two ends of a row would no longer be read as one.
	expect(await page.evaluate(WIDEST), `lists of ${path} are too wide`).toBeLessThanOrEqual(1720);
	expect(
		await page.evaluate('document.documentElement.scrollWidth > innerWidth'),
		`${path} is wider than ${width} pixels`
	).toBe(false);
}

it.each(LOOKS)(
	'is whole in %s at %d pixels',
	(scheme, width) =>
		withPage(
			async (page) => {
				await enter(page);
				for (const path of [...PAGES, ...BELOW.map((below) => `/dashboard/sandboxes/${id}${below}`)]) {
					const name = path.replace(`/${id}`, '/one').slice(1).replaceAll('/', '-');
					await look(page, path, `${name}-${scheme}-${width}`, width);
				}
			},
			{ scheme, width }
		),
	MINUTES
);

it.each(LOOKS)('sets up a fresh installation in %s at %d pixels', (scheme, width) =>
	withPage((page) => look(page, '/setup', `setup-${scheme}-${width}`, width), {
		scheme,
		width,
		at: fresh.url
	})
);

it.each(LOOKS)('is whole to those who have not signed in, in %s at %d pixels', (scheme, width) =>
	withPage(
		async (page) => {
			for (const path of OUTSIDE) {
				await look(page, path, `${path.slice(1)}-${scheme}-${width}`, width);
				// Without mail nobody is left waiting for some.
				if (path === '/reset') await page.getByText('Ask a platform admin for a link').waitFor();
			}
		},
		{ scheme, width }
	)
);

// Between the widths of the pictures columns fold away one after the other.
it.each([768, 1024])('has room for what is in its lists at %d pixels', (width) =>
	withPage(
		async (page) => {
			await enter(page);
			for (const path of [...LISTS, `/dashboard/sandboxes/${id}/events`]) {
				await page.goto(path);
				await page.locator('[data-row]').first().waitFor();
				expect(await page.evaluate(NARROW), `columns of ${path}`).toEqual([]);
			}
		},
		{ width }
	)
);

it.each([360, 3840])(
	'is useful at %d pixels',
	(width) =>
		withPage(
			async (page) => {
				await enter(page);
				for (const path of [...PAGES, `/dashboard/sandboxes/${id}`, `/dashboard/sandboxes/${id}/files`])
					await look(page, path, `${path.replace(id, 'one').slice(1).replaceAll('/', '-')}-${width}`, width);
			},
			{ width }
		),
	MINUTES
);

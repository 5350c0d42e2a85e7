// What every page owes to those who use it: their theme, their peace, their keyboard, and news after a lost connection.
import { afterEach, expect, it } from 'vitest';

import { admin, api, ask, enter, inspect, server, useBrowser, withPage } from './harness';
import { Line } from './line';
import { walk } from './walk';

useBrowser();

afterEach(async () => {
	const { items } = await api<{ items: { id: string }[] }>('GET', '/v1/sandboxes');
	await Promise.all(items.map(({ id }) => api('DELETE', `/v1/sandboxes/${id}`)));
	const { team_id } = await admin<{ team_id: string }>('GET', '/v1/me');
	await admin('PUT', `/v1/admin/teams/${team_id}/byoc`, { enabled: false }).catch(() => undefined);
});

const SHOWN = 'document.documentElement.dataset.theme';

it('has the theme of the system until one is chosen, and keeps that one from the first paint on', () =>
	withPage(
		async (page) => {
			await enter(page);
			expect(await page.evaluate(SHOWN)).toBe('light');
			await page.emulateMedia({ colorScheme: 'dark' });
			await expect.poll(() => page.evaluate(SHOWN)).toBe('dark');
			await page.getByRole('button', { name: /account and theme/i }).click();
			await page.getByRole('menuitem', { name: 'Light', exact: true }).click();
			await expect.poll(() => page.evaluate(SHOWN)).toBe('light');
			const background = () => page.evaluate('getComputedStyle(document.documentElement).backgroundColor');
			const light = await background();
			// As soon as there is anything to paint, before the application runs.
			await page.goto('/dashboard/sandboxes', { waitUntil: 'commit' });
			await page.waitForFunction(() => document.body !== null);
			expect(await page.evaluate(SHOWN)).toBe('light');
			await expect.poll(background).toBe(light);
			await page.locator('#content h1').first().waitFor();
			await page.keyboard.press('Control+k');
			await page.getByRole('option', { name: 'Dark theme' }).click();
			await expect.poll(() => page.evaluate(SHOWN)).toBe('dark');
			expect(await background()).not.toBe(light);
			// By arrows in the settings, as in every group of which one is chosen.
			await page.goto('/dashboard/settings');
			await page.getByRole('radio', { name: 'Dark' }).focus();
			await page.keyboard.press('ArrowRight');
			await page.locator('[role=radio][aria-checked=true]:focus').getByText('Light').waitFor();
			await expect.poll(() => page.evaluate(SHOWN)).toBe('light');
		},
		{ scheme: 'light' }
	));

it.each([
	[false, true],
	[true, false]
])('to those who want nothing to move (%s) nothing does', (still, moves) =>
	withPage(
		async (page) => {
			await page.addInitScript(() => {
				const seen: [string, number, number][] = [];
				Object.assign(window, { seen });
				window.addEventListener('animationstart', ({ animationName, target }) => {
					const { animationDuration, animationIterationCount } = getComputedStyle(target as Element);
					seen.push([animationName, parseFloat(animationDuration), Number(animationIterationCount)]);
				});
			});
			await enter(page);
			// What was made before the list is watched is no news in it.
			const arrives = async () => {
				const { id } = await api<{ id: string }>('POST', '/v1/sandboxes', { memory_mb: 128 });
				const row = page.locator(`[data-row="${id}"][data-fresh]`);
				return row.waitFor({ timeout: 3000 }).then(
					() => true,
					() => false
				);
			};
			await expect.poll(arrives).toBe(true);
			await page.keyboard.press('c');
			await page.getByRole('dialog').waitFor();
			const seen = () => page.evaluate<[string, number, number][]>('seen');
			await expect.poll(async () => (await seen()).map(([name]) => name)).toContain('rise');
			const longest = Math.max(...(await seen()).map(([, seconds]) => seconds));
			expect(longest > 0.1).toBe(moves);
			const endless = (await seen()).some(([, , times]) => Number.isNaN(times) || times > 1);
			if (!moves) expect(endless).toBe(false);
		},
		{ still }
	)
);

it('keeps the keyboard in a dialog, and gives it back to where it was', () =>
	withPage(async (page) => {
		await enter(page, '/dashboard/keys');
		const button = page.getByRole('button', { name: 'New key' }).first();
		await button.focus();
		await page.keyboard.press('Enter');
		const dialog = page.getByRole('dialog');
		await dialog.getByLabel('Name').waitFor();
		const inside = () => page.evaluate("document.activeElement.closest('[role=dialog]') !== null");
		await expect.poll(inside).toBe(true);
		const rounds = (await dialog.locator('input, button, select, textarea').count()) + 3;
		for (let at = 0; at < rounds; at += 1) {
			await page.keyboard.press('Tab');
			expect(await inside()).toBe(true);
		}
		for (let at = 0; at < rounds; at += 1) {
			await page.keyboard.press('Shift+Tab');
			expect(await inside()).toBe(true);
		}
		await page.keyboard.press('Escape');
		await dialog.waitFor({ state: 'detached' });
		await expect.poll(() => button.evaluate((one) => one === document.activeElement)).toBe(true);
		// Where the keyboard is can be seen.
		await page.keyboard.press('Shift+Tab');
		const ring = await page.evaluate(
			'(({ outlineStyle, outlineWidth }) => [outlineStyle, outlineWidth])(getComputedStyle(document.activeElement))'
		);
		expect(ring).toEqual(['solid', '2px']);
	}));

it(
	'lets the keyboard alone reach everything on every page, and shows where it is',
	() =>
		withPage(async (page) => {
			const { id } = await api<{ id: string }>('POST', '/v1/sandboxes', { memory_mb: 128 });
			const { team_id } = await admin<{ team_id: string }>('GET', '/v1/me');
			const byoc = (enabled: boolean) => admin('PUT', `/v1/admin/teams/${team_id}/byoc`, { enabled });
			await byoc(true);
			const { host } = await admin<{ host: { id: string } }>('POST', '/v1/hosts', { type: 'byoc', team_id });
			try {
				const { user_code } = await ask<{ user_code: string }>('POST', '/v1/auth/device', {}, {});
				await enter(page);
				const team =
					'sandboxes templates snapshots volumes secrets usage webhooks keys team audit settings byoc'.split(
						' '
					);
				const paths = [
					...team.map((name) => `/dashboard/${name}`),
					...['', '/metrics', '/files', '/logs', '/events'].map(
						(below) => `/dashboard/sandboxes/${id}${below}`
					),
					...['hosts', 'hosts?tab=byoc', 'teams', 'users', 'sandboxes', 'audit'].map(
						(name) => `/admin/${name}`
					)
				];
				for (const path of paths) {
					await page.goto(path);
					if (path.endsWith('/files')) await page.getByRole('treeitem', { name: /\.bashrc/ }).waitFor();
					await walk(page, path, 10);
				}
				await page.goto('/device');
				await page.getByLabel('Code').waitFor();
				await walk(page, '/device', 2);
				await page.goto(`/device?code=${user_code}`);
				await page.getByRole('button', { name: 'Let it in' }).waitFor();
				await walk(page, '/device with a code', 1);
				await api('POST', `/v1/sandboxes/${id}/pause`);
				await page.goto(`/dashboard/sandboxes/${id}`);
				await page.locator('[data-at-rest=paused]').waitFor();
				await walk(page, 'the page of a paused one', 10);
			} finally {
				// Else the tests that follow have a team without hosts.
				await admin('DELETE', `/v1/hosts/${host.id}?force=true`);
				await byoc(false);
			}
		}),
	600_000
);

it('lets the keyboard alone reach everything before the log-in', () =>
	withPage(
		async (page) => {
			for (const [path, shows, least] of [
				['/login', 'Forgot your password?', 4],
				['/signup', 'Make the account', 4],
				['/reset', 'Back to the login', 0],
				['/reset#a-token', 'Set the password', 2],
				['/setup', 'Log in', 0],
				['/nowhere', '', 0]
			] as const) {
				await page.goto('about:blank');
				await page.goto(path);
				if (shows) await page.getByText(shows, { exact: true }).first().waitFor();
				await walk(page, path, least);
			}
		},
		{ expected: /404/ }
	));

it('makes one sandbox on a slow line, however often one presses', () =>
	withPage(async (page) => {
		await enter(page);
		let asked = 0;
		await page.route(/\/v1\/sandboxes$/, async (route) => {
			if (route.request().method() === 'POST') {
				asked += 1;
				await new Promise((resolve) => setTimeout(resolve, 1500));
			}
			await route.continue();
		});
		await page.keyboard.press('c');
		const dialog = page.getByRole('dialog');
		await dialog.getByLabel('Labels').fill('task=once');
		for (let press = 0; press < 4; press += 1) await page.keyboard.press('Enter');
		// It says that it is at work, and can't be pressed meanwhile.
		await dialog.locator('button[type=submit][aria-busy=true]:disabled').waitFor();
		await page.waitForURL(/\/sandboxes\/sb-[a-z0-9]{20}$/);
		expect(asked).toBe(1);
		const { items } = await api<{ items: unknown[] }>('GET', '/v1/sandboxes');
		expect(items.length).toBe(1);
	}));

it('asks again when the server was away, and shows what came meanwhile', async () => {
	const line = await Line.to(server);
	await withPage(
		async (page) => {
			const first = await api<{ id: string }>('POST', '/v1/sandboxes', { memory_mb: 128 });
			await enter(page);
			await page.locator(`[data-row="${first.id}"]`).waitFor();
			const live = () => page.locator('#content').getAttribute('data-live');
			await expect.poll(live).toBe('true');
			line.cut();
			await expect.poll(live).toBe('false');
			const second = await api<{ id: string }>('POST', '/v1/sandboxes', { memory_mb: 128 });
			await api('DELETE', `/v1/sandboxes/${first.id}`);
			// What was known stays on the screen, with a word that it may be old.
			await page
				.getByRole('alert')
				.getByText(/may be out of date/)
				.waitFor();
			await page.locator(`[data-row="${first.id}"]`).waitFor();
			await inspect(page, 'sandboxes-away');
			line.mend();
			await page.locator(`[data-row="${second.id}"]`).waitFor();
			await page.locator(`[data-row="${first.id}"]`).waitFor({ state: 'detached' });
			await expect.poll(live, { timeout: 30_000 }).toBe('true');
			await page.getByRole('alert').waitFor({ state: 'detached' });
		},
		{ at: line.url, expected: /net::ERR_/ }
	);
	line.end();
});

it.each(['entry', 'start'])(
	'loads again by itself when its own files (%s) did not come, and says so when they never do',
	(which) =>
		withPage(
			async (page) => {
				let loads = 0;
				let lost = 1;
				page.on('request', (asked) => (loads += asked.isNavigationRequest() ? 1 : 0));
				await page.route(`**/_app/immutable/${which}/*.js`, async (asked) => {
					if (loads <= lost) await asked.abort('internetdisconnected');
					else await asked.continue();
				});
				await page.goto('/login');
				await page.getByLabel('Email').waitFor();
				expect(loads).toBe(2);
				lost = Infinity;
				await page.goto('/login');
				await page.getByRole('alert').getByText('could not be loaded').waitFor();
				lost = 0;
				await page.getByRole('button', { name: 'Try again' }).click();
				await page.getByLabel('Email').waitFor();
			},
			{ expected: /net::ERR_INTERNET_DISCONNECTED/ }
		)
);

it('is fetched once: files are named by what is in them, and kept for ever; the page itself is looked at each time', () =>
	withPage(async (page) => {
		const kept = new Map<string, string>();
		page.on('response', (answer) => {
			const { pathname } = new URL(answer.url());
			if (pathname.startsWith('/_app/')) kept.set(pathname, answer.headers()['cache-control'] ?? '');
		});
		const answer = await page.goto('/login');
		expect(answer?.headers()['cache-control']).toBe('no-cache');
		await page.getByLabel('Email').waitFor();
		expect(kept.size).toBeGreaterThan(3);
		for (const [path, cache] of kept) {
			expect(path).toMatch(/^\/_app\/immutable\/|^\/_app\/[\w.-]+\.js$/);
			if (path.startsWith('/_app/immutable/')) expect(cache).toBe('public, max-age=31536000, immutable');
		}
	}));

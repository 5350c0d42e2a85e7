// The page of all components in all their states, which only the development server has: so this starts one.
import { type ChildProcess, spawn } from 'node:child_process';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { browser, inspect, server, useBrowser, withPage } from './harness';
import { end, firstLine } from './own';

useBrowser();

const dashboard = new URL('../', import.meta.url).pathname;
let vite: ChildProcess | undefined;
let url = '';
beforeAll(async () => {
	vite = spawn('node', ['node_modules/vite/bin/vite.js', 'dev', '--host', '127.0.0.1', '--port', '0'], {
		cwd: dashboard,
		env: { ...process.env, ATOLL_URL: server, NO_COLOR: '1', FORCE_COLOR: '0' },
		stdio: ['ignore', 'pipe', 'inherit']
	});
	const line = await firstLine(vite, (said) => said.includes('Local:'));
	url = /http:\/\/[\d.]+:\d+/.exec(line)?.[0] ?? '';
	// On the first visit it puts the packages together as they are asked for, and loads the page again for each lot.
	const first = await browser.newPage();
	await first.goto(`${url}/dev/components`, { timeout: 150_000 });
	await first.getByRole('figure', { name: 'CPU' }).locator('canvas').waitFor({ timeout: 150_000 });
	await first.waitForLoadState('networkidle', { timeout: 150_000 });
	await first.close();
});
afterAll(() => end(vite));

it.each(['dark', 'light'] as const)(
	'shows every component in all its states, in %s',
	(scheme) =>
		withPage(
			async (page) => {
				await page.goto('/dev/components');
				await page.getByRole('heading', { name: 'Components' }).waitFor();
				await page.getByRole('figure', { name: 'CPU' }).locator('canvas').waitFor();
				await inspect(page, `components-${scheme}`, true);
				await page.getByRole('button', { name: 'Dialog' }).click();
				await page.getByRole('dialog').getByText('With a line about it.').waitFor();
				await inspect(page, `components-dialog-${scheme}`);
				await page.keyboard.press('Escape');
				await page.getByRole('button', { name: 'Change', exact: true }).click();
				await page.getByRole('button', { name: 'Change it' }).click();
				await page.getByRole('dialog').locator('[aria-invalid=true]').waitFor();
				await page.getByRole('dialog').getByLabel('Name').fill('good');
				await page.getByRole('button', { name: 'Change it' }).click();
				await page.getByRole('dialog').getByRole('alert').waitFor();
				expect(await page.getByRole('dialog').getByLabel('Name').inputValue()).toBe('good');
				await inspect(page, `components-change-${scheme}`);
				await page.keyboard.press('Escape');
				await page.getByRole('button', { name: 'Make', exact: true }).click();
				await page.getByRole('button', { name: 'Make it' }).click();
				expect(await page.getByLabel('Secret', { exact: true }).last().inputValue()).toBe('only-this-once');
				// The keyboard is where the next step is.
				await page.locator('[data-after] button:focus').waitFor();
				await inspect(page, `components-once-${scheme}`);
				await page.getByRole('button', { name: 'Done' }).click();
				await page.getByRole('button', { name: 'Menu' }).click();
				await page.getByRole('menuitem', { name: 'Delete' }).waitFor();
				await page.keyboard.press('Escape');
				await page.getByRole('button', { name: 'New row' }).click();
				await page.locator('[data-row="row 3"][data-fresh]').waitFor();
				expect(await page.locator('[data-row]').count()).toBe(3);
			},
			{ at: url, scheme }
		),
	300_000
);

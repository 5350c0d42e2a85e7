import { afterAll, expect, it } from 'vitest';

import { api, enter, inspect, useBrowser, withPage } from './harness';

useBrowser();

const name = `shell-${Date.now().toString(36)}`;
afterAll(async () => {
	const { items } = await api<{ items: { id: string; name: string }[] }>('GET', '/v1/templates');
	await Promise.all(
		items.filter((one) => one.name.startsWith(name)).map((one) => api('DELETE', `/v1/templates/${one.id}`))
	);
});

it(
	'builds a template from a recipe with a live log, starts a sandbox from it, and deletes it',
	() =>
		withPage(async (page) => {
			await enter(page, '/dashboard/templates');
			await page.getByRole('button', { name: 'New template' }).click();
			await page.getByRole('textbox', { name: 'Name' }).fill(name);
			await page.getByLabel('Recipe').fill('FROM base\nRUN echo built by a recipe | tee /opt/proof\n');
			await inspect(page, 'template-build');
			await page.getByRole('dialog').getByRole('button', { name: 'Build' }).click();
			await page
				.getByRole('log', { name: 'Build log' })
				.getByText('built by a recipe')
				.last()
				.waitFor({ timeout: 60_000 });
			await page.getByRole('dialog').getByText('ready', { exact: true }).waitFor({ timeout: 60_000 });
			await inspect(page, 'template-built');
			// What comes next is one press away.
			await page.getByRole('button', { name: 'Start a sandbox' }).click();
			await page.waitForURL(/\/sandboxes\/sb-[a-z0-9]{20}$/);
			await page.getByText(name, { exact: true }).waitFor();
			await page.getByText('Running').first().waitFor();
			const id = new URL(page.url()).pathname.split('/').at(-1) ?? '';
			const { stdout } = await api<{ stdout: string }>('POST', `/v1/sandboxes/${id}/exec`, {
				cmd: 'cat',
				args: ['/opt/proof']
			});
			expect(stdout).toBe('built by a recipe\n');
			await api('DELETE', `/v1/sandboxes/${id}`);
			await page.goto('/dashboard/templates');
			const row = page.locator('[data-row]').filter({ hasText: name });
			const menu = row.getByRole('button', { name: `Actions for ${name}` });
			// For every team, and for its own alone again.
			const isPublic = async () => (await api<{ public: boolean }>('GET', `/v1/templates/${name}`)).public;
			await menu.click();
			await page.getByRole('menuitem', { name: 'Make public' }).click();
			await inspect(page, 'template-public');
			await page.getByRole('button', { name: 'Make public' }).click();
			await row.getByText('public', { exact: true }).waitFor();
			expect(await isPublic()).toBe(true);
			await inspect(page, 'template-is-public');
			await menu.click();
			await page.getByRole('menuitem', { name: 'Make private' }).click();
			await row.getByText('public', { exact: true }).waitFor({ state: 'detached' });
			expect(await isPublic()).toBe(false);
			await menu.click();
			await page.getByRole('menuitem', { name: 'Delete' }).click();
			await page.getByRole('button', { name: 'Delete template' }).click();
			await row.waitFor({ state: 'detached' });
			expect(await page.locator('[data-row]').count()).toBeGreaterThan(0);
		}),
	300_000
);

it(
	'builds a template for machines, whose sandboxes begin with one that is ready',
	() =>
		withPage(async (page) => {
			await enter(page, '/dashboard/templates');
			await page.getByRole('button', { name: 'New template' }).click();
			const dialog = page.getByRole('dialog');
			await dialog.getByRole('textbox', { name: 'Name' }).fill(`${name}-vm`);
			await dialog
				.getByLabel('Recipe')
				.fill('FROM base\nCMD touch /dev/shm/begun; exec sleep 100000\nREADY test -e /dev/shm/begun\n');
			await dialog.getByLabel('Isolation').click();
			await page.getByRole('option', { name: /^Virtual machine/ }).click();
			await dialog.getByLabel('Sandboxes begin with').click();
			await page.getByRole('option', { name: /^A machine that is ready/ }).click();
			await inspect(page, 'template-build-machine');
			await dialog.getByRole('button', { name: 'Build' }).click();
			await dialog.getByText('ready', { exact: true }).waitFor({ timeout: 120_000 });
			await page.keyboard.press('Escape');
			const row = page.locator('[data-row]').filter({ hasText: `${name}-vm` });
			await row.getByText('vm', { exact: true }).waitFor();
			await inspect(page, 'template-of-machines');
			const made = await api<{ id: string; driver: string; kept: string }>('POST', '/v1/sandboxes', {
				template: `${name}-vm`
			});
			expect([made.driver, made.kept]).toEqual(['vm', 'memory']);
			await api('DELETE', `/v1/sandboxes/${made.id}`);
		}),
	300_000
);

it(
	'says at the field what is no image, in the log why one can’t be had, and keeps every build to be looked at',
	() =>
		withPage(
			async (page) => {
				await enter(page, '/dashboard/templates');
				await page.keyboard.press('c');
				const dialog = page.getByRole('dialog');
				await dialog.getByRole('textbox', { name: 'Name' }).fill(`${name}-image`);
				await dialog.getByLabel('From').click();
				await page.getByRole('option', { name: /^An image/ }).click();
				await dialog.getByLabel('Image').fill('Not An Image!');
				await dialog.getByRole('button', { name: 'Build' }).click();
				await dialog.locator('[aria-invalid=true]').waitFor();
				await inspect(page, 'template-image-refused');
				// Nothing listens there, and it is this machine: not for strangers.
				await dialog.getByLabel('Image').fill('127.0.0.1:9/atoll/none:1');
				await dialog.getByRole('button', { name: 'Build' }).click();
				const failed = dialog.getByRole('status').getByText('error', { exact: true });
				await failed.waitFor({ timeout: 60_000 });
				await dialog
					.getByRole('log')
					.getByText(/a private address/)
					.waitFor();
				await inspect(page, 'template-image-failed');
				// What was typed is still there, to be mended.
				await dialog.getByRole('button', { name: 'Change it and build again' }).click();
				await dialog.locator('input:focus').waitFor();
				expect(await dialog.getByLabel('Image').inputValue()).toBe('127.0.0.1:9/atoll/none:1');
				await dialog.getByLabel('From').click();
				await page.getByRole('option', { name: /^A recipe/ }).click();
				await dialog.getByLabel('Recipe').fill('FROM base\nRUN echo mended\n');
				await dialog.getByRole('button', { name: 'Build' }).click();
				await dialog.getByRole('status').getByText('ready', { exact: true }).waitFor({ timeout: 60_000 });
				await dialog.getByRole('button', { name: 'Done' }).click();

				// Another goes on without anybody looking; it is found again below its template, and ended.
				await page.keyboard.press('c');
				await dialog.getByRole('textbox', { name: 'Name' }).fill(`${name}-image`);
				await dialog.getByLabel('Recipe').fill('FROM base\nRUN echo begun && sleep 300\n');
				await dialog.getByRole('button', { name: 'Build' }).click();
				await dialog.getByRole('log').getByText('begun', { exact: true }).waitFor({ timeout: 60_000 });
				await dialog.getByRole('button', { name: 'Close' }).last().click();
				await dialog.waitFor({ state: 'detached' });
				await page.getByRole('button', { name: `Actions for ${name}-image` }).click();
				await page.getByRole('menuitem', { name: /^Builds/ }).click();
				const builds = dialog.getByRole('listitem');
				await builds.nth(2).waitFor();
				await inspect(page, 'template-builds');
				await builds.nth(2).getByText('error', { exact: true }).waitFor();
				await builds.nth(1).getByText('ready', { exact: true }).waitFor();
				await builds.first().getByRole('button').first().click();
				await dialog.getByRole('log').getByText('begun', { exact: true }).waitFor();
				await dialog.getByRole('button', { name: 'End it' }).click();
				await dialog.getByRole('status').getByText('cancelled', { exact: true }).waitFor({ timeout: 60_000 });
				await dialog.getByRole('button', { name: 'All builds' }).click();
				await builds.nth(2).getByRole('button').first().click();
				await dialog
					.getByRole('log')
					.getByText(/a private address/)
					.waitFor();
			},
			{ expected: /400/ }
		),
	300_000
);

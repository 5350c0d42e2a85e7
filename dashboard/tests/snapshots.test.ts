import { afterEach, expect, it } from 'vitest';

import { api, enter, inspect, useBrowser, withPage } from './harness';

useBrowser();

afterEach(async () => {
	const { items } = await api<{ items: { id: string }[] }>('GET', '/v1/sandboxes');
	await Promise.all(items.map(({ id }) => api('DELETE', `/v1/sandboxes/${id}`)));
});

it('takes a snapshot of a sandbox, starts another from it with its files, and deletes it', () =>
	withPage(async (page) => {
		const { id } = await api<{ id: string }>('POST', '/v1/sandboxes', { memory_mb: 128 });
		await api('POST', `/v1/sandboxes/${id}/exec`, { cmd: 'sh', args: ['-c', 'echo kept > /home/user/note'] });
		await enter(page, '/dashboard/snapshots');
		await page.getByRole('heading', { name: 'No snapshots yet' }).waitFor();
		await inspect(page, 'snapshots-empty');
		await page.goto(`/dashboard/sandboxes/${id}`);
		await page.getByRole('button', { name: 'More' }).click();
		await page.getByRole('menuitem', { name: /Take a snapshot/ }).click();
		await page.getByRole('textbox', { name: 'Name' }).fill('ready');
		await inspect(page, 'snapshot-take');
		await page.getByRole('button', { name: 'Take it' }).click();
		await page.waitForURL(/\/snapshots$/);
		const row = page.locator('[data-row]').filter({ hasText: 'ready' });
		await row.waitFor();
		await inspect(page, 'snapshots');
		await row.getByRole('button', { name: 'Actions for ready' }).click();
		await page.getByRole('menuitem', { name: 'Start a sandbox' }).click();
		await page.waitForURL(/\/sandboxes\/sb-[a-z0-9]{20}$/);
		const started = new URL(page.url()).pathname.split('/').at(-1) ?? '';
		const answer = await api<{ stdout: string }>('POST', `/v1/sandboxes/${started}/exec`, {
			cmd: 'cat',
			args: ['/home/user/note']
		});
		expect(answer.stdout).toBe('kept\n');
		await page.goto('/dashboard/snapshots');
		await row.getByRole('button', { name: 'Actions for ready' }).click();
		await page.getByRole('menuitem', { name: 'Delete' }).click();
		await page.getByRole('button', { name: 'Delete snapshot' }).click();
		await page.getByRole('heading', { name: 'No snapshots yet' }).waitFor();
	}));

it('forks a sandbox into two that have its files', () =>
	withPage(async (page) => {
		const { id } = await api<{ id: string }>('POST', '/v1/sandboxes', { memory_mb: 128 });
		await enter(page, `/dashboard/sandboxes/${id}`);
		await page.getByRole('button', { name: 'More' }).click();
		await page.getByRole('menuitem', { name: /Fork/ }).click();
		await page.getByLabel('How many').fill('2');
		await inspect(page, 'fork');
		await page.getByRole('dialog').getByRole('button', { name: 'Fork' }).click();
		await page.waitForURL(/\/sandboxes$/);
		await page.locator('[data-row]').nth(2).waitFor();
	}));

import { afterEach, expect, it } from 'vitest';

import { admin, api, enter, inspect, useBrowser, withPage } from './harness';

useBrowser();

let team = '';
afterEach(async () => {
	const { items } = await api<{ items: { id: string }[] }>('GET', '/v1/sandboxes');
	await Promise.all(items.map(({ id }) => api('DELETE', `/v1/sandboxes/${id}`)));
	await admin('PUT', `/v1/admin/teams/${team}/quotas`, {});
});

it('charts what the team used by day, and says how much of what it may is taken', () =>
	withPage(async (page) => {
		team = (await admin<{ team_id: string }>('GET', '/v1/me')).team_id;
		await admin('PUT', `/v1/admin/teams/${team}/quotas`, { sandboxes: 2, memory_mb: 4096 });
		await Promise.all([1, 2].map(() => api('POST', '/v1/sandboxes', { memory_mb: 256, vcpus: 1 })));
		await enter(page, '/dashboard/usage');
		const meter = page.getByRole('meter', { name: 'Sandboxes' });
		await meter.waitFor();
		expect(await meter.getAttribute('aria-valuenow')).toBe('2');
		expect(await meter.getAttribute('aria-valuemax')).toBe('2');
		await page.getByText('Nearly all is taken').waitFor();
		await page.getByText('512 MB').waitFor();

		// A bar per day; what the pointer is at is written above it.
		const chart = page.getByRole('figure', { name: 'Sandbox hours' });
		await chart.locator('canvas').waitFor();
		const today = new Date().toISOString().slice(0, 10);
		// The pointer stays where it was put when the page moves below it, so it is put there until it is heard.
		let nudge = 0;
		await expect
			.poll(async () => {
				const box = await chart.locator('.u-over').boundingBox();
				nudge = 1 - nudge;
				await page.mouse.move((box?.x ?? 0) + (box?.width ?? 0) - 2 - nudge, (box?.y ?? 0) + 20);
				return chart.getByText(today).isVisible();
			})
			.toBe(true);
		// The most that ran at once lately is at the end of what ran over time: other tests have had theirs.
		const { points } = await api<{ points: { concurrent: number }[] }>('GET', '/v1/usage/activity?range=30d');
		const most = points.at(-1)?.concurrent ?? 0;
		expect(most).toBeGreaterThanOrEqual(2);
		const busy = page.getByRole('figure', { name: /^Sandboxes at once/ });
		await busy.locator('canvas').waitFor();
		await busy
			.getByText(new RegExp(`^${most}$`))
			.first()
			.waitFor();
		await inspect(page, 'usage');

		await page.getByLabel(/^Range/).click();
		await page.getByRole('option', { name: 'Last 7 days' }).click();
		await page.waitForURL(/days=7/);
		await page.reload();
		await page.getByLabel('Range: Last 7 days').waitFor();
		await chart.locator('canvas').waitFor();
	}));

it('lets a platform admin set what a team may take, and give it back to the default', () =>
	withPage(async (page) => {
		team = (await admin<{ team_id: string }>('GET', '/v1/me')).team_id;
		await enter(page, '/admin/teams');
		const row = page.locator(`[data-row="${team}"]`);
		await row.getByRole('button', { name: /Actions for/ }).click();
		await page.getByRole('menuitem', { name: /Limits/ }).click();
		const dialog = page.getByRole('dialog');
		// What is not set is left to the default, which is told and not filled in.
		await expect.poll(() => dialog.getByLabel('vCPUs').getAttribute('placeholder')).toMatch(/^Default: /);
		expect(await dialog.getByLabel('vCPUs').inputValue()).toBe('');
		await dialog.getByLabel('Sandboxes').fill('3');
		await dialog.getByLabel('Memory, MB').fill('2048');
		await inspect(page, 'admin-team-limits');
		await dialog.getByRole('button', { name: 'Set the limits' }).click();
		await dialog.waitFor({ state: 'detached' });
		type Limit = { limit: number | null; own: number | null };
		const set = await admin<{ sandboxes: Limit; vcpus: Limit }>('GET', `/v1/admin/teams/${team}/quotas`);
		expect(set.sandboxes).toMatchObject({ limit: 3, own: 3 });
		expect(set.vcpus).toMatchObject({ own: null });
		await row.getByRole('button', { name: /Actions for/ }).click();
		await page.getByRole('menuitem', { name: /Limits/ }).click();
		await expect.poll(() => dialog.getByLabel('Sandboxes').inputValue()).toBe('3');
		await dialog.getByLabel('Sandboxes').fill('');
		await dialog.getByRole('button', { name: 'Set the limits' }).click();
		await dialog.waitFor({ state: 'detached' });
		const back = await admin<{ sandboxes: Limit }>('GET', `/v1/admin/teams/${team}/quotas`);
		expect(back.sandboxes.own).toBeNull();
	}));

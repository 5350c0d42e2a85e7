// The administrator's long lists and the audit trail: searched and read on by the server.
import { afterEach, expect, it } from 'vitest';

import { admin, api, enter, inspect, useBrowser, withPage } from './harness';
import { newPerson } from './people';

useBrowser();

afterEach(async () => {
	const { items } = await api<{ items: { id: string }[] }>('GET', '/v1/sandboxes');
	await Promise.all(items.map(({ id }) => api('DELETE', `/v1/sandboxes/${id}`)));
});

it('finds people by the server, keeps the search in the address, and says how many there are', () =>
	withPage(async (page) => {
		const person = await newPerson('Needle');
		await enter(page, '/admin/users');
		await page.locator('[data-pill=total]').waitFor();
		const { total } = await admin<{ total: number }>('GET', '/v1/admin/users?limit=1');
		await page.locator('[data-pill=total]').getByText(total.toLocaleString('en'), { exact: true }).waitFor();
		await page.keyboard.press('/');
		await page.keyboard.type(person.email);
		await page.locator('[data-pill=found]').getByText('1', { exact: true }).waitFor();
		await page.locator(`[data-row="${person.user_id}"]`).waitFor();
		await expect.poll(() => page.locator('[data-row]').count()).toBe(1);
		await page.reload();
		await page.locator('[data-pill=found]').getByText('1', { exact: true }).waitFor();
		await page.getByLabel('Search users').fill('nobody has this name');
		await page.getByText('Nothing fits this search.').waitFor();
		await inspect(page, 'admin-users-none');
	}));

it('reads on as one scrolls, page by page', () =>
	withPage(async (page) => {
		// The real answers, in pages of three.
		await page.route('**/v1/admin/teams?*', async (route) => {
			const url = new URL(route.request().url());
			if (url.searchParams.get('limit') === '200') url.searchParams.set('limit', '3');
			await route.continue({ url: url.toString() });
		});
		for (const name of ['Ira', 'Jon', 'Kim', 'Lea', 'Mia', 'Noa', 'Ola']) await newPerson(name);
		const { total } = await admin<{ total: number }>('GET', '/v1/admin/teams?limit=1');
		await enter(page, '/admin/teams');
		await expect.poll(() => page.locator('table').getAttribute('aria-rowcount')).toBe(String(total + 1));
		expect(await page.locator('[data-fresh]').count()).toBe(0);
	}));

it('shows all teams’ sandboxes by status, template and id', () =>
	withPage(async (page) => {
		const one = await api<{ id: string }>('POST', '/v1/sandboxes', { memory_mb: 128 });
		const two = await api<{ id: string }>('POST', '/v1/sandboxes', { memory_mb: 128 });
		await api('POST', `/v1/sandboxes/${two.id}/pause`);
		await enter(page, '/admin/sandboxes');
		await page.locator(`[data-row="${one.id}"]`).waitFor();
		await page.getByLabel(/^Status/).click();
		await page.getByRole('option', { name: 'Paused' }).click();
		await page.locator(`[data-row="${one.id}"]`).waitFor({ state: 'detached' });
		await page.locator(`[data-row="${two.id}"]`).waitFor();
		await page.waitForURL(/status=paused/);
		await page.getByLabel('Search sandboxes').fill(one.id);
		await page.getByText('Nothing fits this search.').waitFor();
		await page.getByLabel('Search sandboxes').fill(two.id.slice(3, 15));
		await page.locator(`[data-row="${two.id}"]`).waitFor();
	}));

it('searches the audit trail on the server: by kind, result, time and any word; and shows what changed', () =>
	withPage(
		async (page) => {
			const person = await newPerson('Pia');
			const { id } = await api<{ id: string }>('POST', '/v1/sandboxes', {
				memory_mb: 128,
				metadata: { audited: 'yes' }
			});
			await enter(page, '/dashboard/audit');
			await page.getByLabel('Search the audit log').fill(id);
			await expect.poll(() => page.locator('[data-row]').count()).toBe(1);
			const row = page.locator('[data-row]').filter({ hasText: 'sandbox.create' });
			await row.getByRole('button', { name: /Actions for/ }).click();
			await page.getByRole('menuitem', { name: 'Details' }).click();
			await page.getByRole('dialog').getByText(id).first().waitFor();
			await inspect(page, 'audit-entry');
			await page.getByRole('button', { name: 'Close' }).last().click();

			await page.goto('/admin/audit');
			await page.getByLabel('Search the audit log').fill(person.email);
			await page.locator('[data-row]').filter({ hasText: 'user.' }).first().waitFor();
			await page.getByLabel(/^Result/).click();
			await page.getByRole('option', { name: 'Refused' }).click();
			await page.getByText('Nothing fits this search.').waitFor();
			await page.waitForURL(/result=failed/);
			await page.getByLabel(/^Result/).click();
			await page.getByRole('option', { name: 'Went well' }).click();
			await page.locator('[data-row]').filter({ hasText: 'user.' }).first().waitFor();
			await page.getByLabel(/^Time/).click();
			await page.getByRole('option', { name: 'Last hour' }).click();
			await page.waitForURL(/since=1h/);
			await page.locator('[data-row]').filter({ hasText: 'user.' }).first().waitFor();
			await page.getByLabel(/^Thing/).click();
			await page.getByRole('option', { name: 'webhook' }).click();
			await page.getByText('Nothing fits this search.').waitFor();
			await inspect(page, 'audit-none');
		},
		{ expected: /401/ }
	));

// Lists of hosts, of a team and of the platform: their columns, tags, tabs, and how they load, fail and grow.
import { afterEach, beforeAll, expect, it } from 'vitest';

import { admin, ask, enter, failUntilPressed, inspect, tokenOf, useBrowser, withPage } from './harness';
import { newPerson } from './people';

interface Host {
	id: string;
	name: string;
	status: string;
	type: string;
}

useBrowser();

let team = '';
beforeAll(async () => {
	team = (await admin<{ team_id: string }>('GET', '/v1/me')).team_id;
});
afterEach(async () => {
	const { items } = await admin<{ items: Host[] }>('GET', '/v1/admin/hosts');
	const extra = items.filter((host) => host.type === 'byoc' || host.status === 'pending');
	await Promise.all(extra.map(({ id }) => admin('DELETE', `/v1/hosts/${id}?force=true`)));
	await byoc(false);
});

const byoc = (enabled: boolean) => admin('PUT', `/v1/admin/teams/${team}/byoc`, { enabled });

it('has all there is to know of a host in its row, cut nowhere on a laptop’s screen', () =>
	withPage(async (page) => {
		const asked: string[] = [];
		page.on('request', (request) => asked.push(new URL(request.url()).pathname));
		await enter(page, '/admin/hosts');
		const row = page.locator('[data-row]').first();
		const id = (await row.getAttribute('data-row')) ?? '';
		const host = await admin<{ name: string; address: string }>('GET', `/v1/hosts/${id}`);
		for (const name of ['Host', 'Status', 'Specs', 'Sandboxes', 'Last heartbeat', 'Registered', 'Actions'])
			await page.getByRole('columnheader', { name, exact: true }).waitFor();
		await row.getByText(host.name, { exact: true }).waitFor();
		const address = row.locator('[data-address]');
		expect(await address.innerText()).toBe(host.address);
		const cut = (one: HTMLElement | SVGElement) => one.scrollWidth > one.clientWidth;
		expect(await address.evaluate(cut)).toBe(false);
		const short = row.getByTitle(id).filter({ visible: true });
		expect(await short.innerText()).toBe(`${id.slice(0, 13)}…`);
		expect(await short.evaluate(cut)).toBe(false);
		await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
		await row.hover();
		await row.getByRole('button', { name: 'Copy host id' }).click();
		await expect.poll(() => page.evaluate('navigator.clipboard.readText()')).toBe(id);
		await page.setViewportSize({ width: 1920, height: 900 });
		await row.getByText(id, { exact: true }).filter({ visible: true }).waitFor();
		expect(await address.evaluate(cut)).toBe(false);
		await row.getByRole('button', { name: `Tags of ${host.name}` }).waitFor();
		expect(asked.filter((path) => path.endsWith('/tags'))).toEqual([]);
	}));

it('gives a host tags and takes them away', () =>
	withPage(async (page) => {
		await enter(page, '/admin/hosts');
		const row = page.locator('[data-row]').first();
		const id = await row.getAttribute('data-row');
		const tags = async () => (await admin<{ tags: string[] }>('GET', `/v1/hosts/${id}/tags`)).tags;
		await row.getByRole('button', { name: /Actions for/ }).click();
		await page.getByRole('menuitem', { name: 'Tags' }).click();
		const dialog = page.getByRole('dialog');
		await dialog.getByText('None yet.').waitFor();
		await dialog.getByLabel('New tag').fill('gpu');
		await page.keyboard.press('Enter');
		await dialog.getByRole('listitem').filter({ hasText: 'gpu' }).waitFor();
		expect(await tags()).toEqual(['gpu']);
		// The list shows them also where it has no column for them.
		await row.getByText('gpu').filter({ visible: true }).waitFor();
		await inspect(page, 'host-tags');
		await dialog.getByRole('button', { name: 'Remove gpu' }).click();
		await dialog.getByText('None yet.').waitFor();
		// It is gone from the page before the server has agreed.
		await expect.poll(tags).toEqual([]);
	}));

it('edits tags right in the list where there is room', () =>
	withPage(
		async (page) => {
			await enter(page, '/admin/hosts');
			const row = page.locator('[data-row]').first();
			const id = await row.getAttribute('data-row');
			const tags = async () => (await admin<{ tags: string[] }>('GET', `/v1/hosts/${id}/tags`)).tags;
			await row.getByRole('button', { name: /^Tags of/ }).click();
			const editor = page.getByRole('dialog', { name: /^Tags of/ });
			for (const tag of ['gpu', 'rack 7', 'spare']) {
				await editor.getByLabel('New tag').fill(tag);
				await page.keyboard.press('Enter');
				await editor.getByRole('listitem').filter({ hasText: tag }).waitFor();
			}
			await row.getByText('+1').filter({ visible: true }).waitFor();
			await inspect(page, 'host-tags-in-list');
			await page.keyboard.press('Escape');
			await editor.waitFor({ state: 'detached' });
			await page.reload();
			await row.getByText('gpu').filter({ visible: true }).waitFor();
			await row.getByRole('button', { name: /^Tags of/ }).click();
			for (const tag of ['gpu', 'rack 7', 'spare'])
				await editor.getByRole('button', { name: `Remove ${tag}` }).click();
			await editor.getByText('None yet.').waitFor();
			await expect.poll(tags).toEqual([]);
		},
		{ width: 1920 }
	));

it('slides a new row in, once', () =>
	withPage(async (page) => {
		await enter(page, '/admin/hosts');
		await page.locator('[data-row]').first().waitFor();
		expect(await page.locator('[data-fresh]').count()).toBe(0);
		const { host } = await admin<{ host: Host }>('POST', '/v1/hosts', { name: 'late-comer' });
		const row = page.locator(`[data-row="${host.id}"][data-fresh]`);
		await row.waitFor();
		expect(await row.evaluate((element) => getComputedStyle(element).animationName)).toBe('arrive');
	}));

it.each([
	['/admin/hosts', '**/v1/admin/hosts?*'],
	['/admin/hosts?tab=byoc', '**/v1/admin/hosts?*'],
	['/dashboard/byoc', '**/v1/hosts?*']
])('shimmers at the final height while %s loads, and offers another try when that fails', (path, route) =>
	withPage(
		async (page) => {
			const name = path.slice(1).replaceAll(/[/?=]/g, '-');
			await byoc(true);
			await admin('POST', '/v1/hosts', { type: 'byoc', team_id: team, name: 'in-the-rack' });
			await enter(page);
			await page.goto(path);
			await page.locator('[data-row]').first().waitFor();
			let answer = () => {};
			const held = new Promise<void>((resolve) => (answer = resolve));
			await failUntilPressed(page, route, 'the database is away', held);
			await page.reload();
			const ghost = page.locator('[data-shimmer]').first();
			await ghost.waitFor();
			const height = (await ghost.boundingBox())?.height;
			await inspect(page, `${name}-loading`);
			answer();
			await page.getByText('The database is away.').waitFor();
			await inspect(page, `${name}-error`);
			await page.getByRole('button', { name: 'Try again' }).click();
			await page.locator('[data-row]').first().waitFor();
			expect((await page.locator('[data-row]').first().boundingBox())?.height).toBe(height);
		},
		{ expected: /503/ }
	)
);

it('has the platform’s hosts and, by team, those that were brought; and is visibly another place', () =>
	withPage(async (page) => {
		await byoc(true);
		await admin('POST', '/v1/hosts', { type: 'byoc', team_id: team, name: 'brought' });
		const other = await newPerson('Zoe');
		await admin('PUT', `/v1/admin/teams/${other.team_id}/byoc`, { enabled: true });
		await enter(page);
		await page.getByRole('link', { name: 'Platform administration' }).click();
		await page.waitForURL(/\/admin\/hosts/);
		await page.getByRole('complementary').getByText('ADMIN', { exact: true }).waitFor();
		expect(await page.locator('[data-sidebar] [data-admin-bar]').count()).toBe(1);
		await page.getByRole('tab', { name: /Platform\s*1/ }).waitFor();
		await page.getByRole('tab', { name: /BYOC\s*1/ }).click();
		const group = page.locator('[data-team]').first();
		await group.getByText('brought', { exact: true }).waitFor();
		await page.locator('[data-pill=pending]').getByText('1').waitFor();
		expect(await page.getByRole('button', { name: 'Add host' }).count()).toBe(0);
		// A team's first host slides in below the name of its team.
		const { host } = await admin<{ host: Host }>('POST', '/v1/hosts', {
			type: 'byoc',
			team_id: other.team_id,
			name: 'from-elsewhere'
		});
		const newest = page.locator(`[data-row="${host.id}"][data-fresh]`);
		await newest.waitFor();
		const others = page.locator('[data-team]').filter({ has: newest });
		await others.getByRole('heading', { name: /^Zoe/ }).waitFor();
		expect(await group.getByText('from-elsewhere').count()).toBe(0);
		await page.locator('[data-pill=total]').getByText('2').waitFor();
		await page.getByRole('tab', { name: /BYOC\s*2/ }).waitFor();
		await inspect(page, 'admin-hosts-byoc');
		await page.reload();
		await group.getByText('brought', { exact: true }).waitFor();
		await page.getByRole('tab', { name: /Platform/ }).click();
		await page.getByRole('button', { name: 'Add host' }).click();
		await page.getByRole('dialog').getByRole('button', { name: 'Add host' }).click();
		await page.getByLabel('Registration token').waitFor();
		await page.getByRole('dialog').getByRole('button', { name: 'Close' }).last().click();
		await page.locator('[data-pill=pending]').getByText('1').waitFor();
		await page.locator('[data-pill=online]').getByText('1').waitFor();
		await page.locator('[data-pill=unreachable]').getByText('0').waitFor();
		await page.locator('[data-pill=total]').getByText('2').waitFor();
		await inspect(page, 'admin-hosts');
		await page.getByRole('link', { name: 'Back to your team' }).click();
		await page.waitForURL(/\/dashboard\/sandboxes/);
	}));

it('switches BYOC for a team at once, and rolls back when it is refused', () =>
	withPage(
		async (page) => {
			await enter(page, '/admin/teams');
			const row = page.locator(`[data-row="${team}"]`);
			await row.getByRole('switch').click();
			await page.getByText('may bring its own hosts').waitFor();
			await admin('POST', '/v1/hosts', { type: 'byoc', team_id: team, name: 'in-the-way' });
			await row.getByRole('switch').click();
			await page.getByText(/Could not switch BYOC off/).waitFor();
			await row.locator('[role=switch][aria-checked=true]').waitFor();
			await inspect(page, 'admin-teams');
			await page.goto('/admin/users');
			await page.locator('[data-row]').first().waitFor();
			await inspect(page, 'admin-users');
			await page.goto('/admin/sandboxes');
			await page.getByRole('heading', { name: 'Sandboxes of all teams' }).waitFor();
			await inspect(page, 'admin-sandboxes');
		},
		{ expected: /409/ }
	));

it('gives nothing of the administration to somebody else, by the page or by the API', () =>
	withPage(
		async (page) => {
			const person = await newPerson('Nosy');
			await page.goto('/login?next=/admin');
			await page.getByLabel('Email').fill(person.email);
			await page.getByLabel('Password').fill(person.password);
			await page.getByRole('button', { name: 'Log in' }).click();
			await page.waitForURL(/\/dashboard\/sandboxes/);
			await page.goto('/admin/users');
			await page.waitForURL(/\/dashboard\/sandboxes/);
			expect(await page.getByRole('link', { name: 'Platform administration' }).count()).toBe(0);
			const asked = await page.evaluate(() => fetch('/v1/admin/hosts').then(({ status }) => status));
			expect(asked).toBe(403);
			const authorization = `Bearer ${await tokenOf(person.email, person.password)}`;
			await expect(ask('GET', '/v1/admin/users', { authorization })).rejects.toThrow(/403/);
		},
		{ expected: /403/ }
	));

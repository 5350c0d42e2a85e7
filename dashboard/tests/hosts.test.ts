import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';

import { Agent } from './agent';
import { admin, api, enter, failUntilPressed, inspect, useBrowser, withPage } from './harness';

interface Host {
	id: string;
	name: string;
	status: string;
	type: string;
	draining: boolean;
}

useBrowser();

let agent: Agent | undefined;
let team = '';
beforeAll(async () => {
	team = (await admin<{ team_id: string }>('GET', '/v1/me')).team_id;
});
afterEach(async () => {
	const { items } = await admin<{ items: Host[] }>('GET', '/v1/admin/hosts');
	const extra = items.filter((host) => host.type === 'byoc' || host.status === 'pending');
	await Promise.all(extra.map(({ id }) => admin('DELETE', `/v1/hosts/${id}?force=true`)));
	await agent?.remove();
	agent = undefined;
	await admin('PUT', `/v1/admin/teams/${team}/byoc`, { enabled: false });
});
afterAll(async () => {
	await agent?.remove();
});

const byoc = (enabled: boolean) => admin('PUT', `/v1/admin/teams/${team}/byoc`, { enabled });

it('shows the item for own hosts when an admin has switched it on, after a reload and without a new login', () =>
	withPage(async (page) => {
		await enter(page);
		await page.getByRole('heading', { name: 'Sandboxes', exact: true }).waitFor();
		expect(await page.getByRole('link', { name: 'Your hosts' }).count()).toBe(0);
		await byoc(true);
		await page.reload();
		await page.getByRole('link', { name: 'Your hosts' }).click();
		await page.getByRole('heading', { name: 'Bring your own cloud' }).waitFor();
		await page.getByText('atoll host check').waitFor();
		await inspect(page, 'byoc-empty');
	}));

it(
	'registers a host: reveals the token once, waits, and turns to online by itself; force delete names what goes',
	() =>
		withPage(
			async (page) => {
				await byoc(true);
				await enter(page, '/dashboard/byoc');
				await page.getByRole('button', { name: 'Register host' }).first().click();
				await page.getByLabel('Name').fill('reef-1');
				await page.getByLabel('Provider').fill('hetzner');
				await page.getByLabel('Availability zone').fill('fsn1');
				await inspect(page, 'byoc-register');
				await page.getByRole('dialog').getByRole('button', { name: 'Register host' }).click();

				// The circle pops, the check mark draws itself, the field glows.
				const mark = page.locator('[data-reveal] path');
				await mark.waitFor();
				expect(await mark.evaluate((element) => getComputedStyle(element).animationName)).toBe('draw');
				const circle = page.locator('[data-reveal] circle');
				expect(await circle.evaluate((element) => getComputedStyle(element).animationName)).toBe('pop');
				const field = page.getByLabel('Registration token');
				expect(await field.evaluate((one) => getComputedStyle(one.parentElement ?? one).animationName)).toBe(
					'glow'
				);
				const token = await field.inputValue();
				expect(token).toMatch(/^atr_/);
				await page.getByText('Single use, valid for 1 hour, and not shown again.').waitFor();
				await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
				await page.getByRole('dialog').getByRole('button', { name: 'Copy', exact: true }).click();
				await page.getByRole('button', { name: 'Copied' }).first().waitFor();
				expect(await page.evaluate('navigator.clipboard.readText()')).toBe(token);
				const command = await page
					.getByRole('dialog')
					.locator('code')
					.filter({ hasText: 'ATOLL_REGISTER' })
					.innerText();
				expect(command).toContain(token);
				await page.locator('[data-enrolment=waiting]').waitFor();
				await inspect(page, 'byoc-token');

				// The row is there already, new, and pending.
				const row = page.locator('[data-row]').filter({ hasText: 'reef-1' });
				await row.getByText('Pending').waitFor({ state: 'attached' });
				await page.locator('[data-row][data-fresh]').filter({ hasText: 'reef-1' }).waitFor();

				agent = new Agent();
				agent.start(command);
				await page.locator('[data-enrolment=online]').waitFor({ timeout: 90_000 });
				await page.getByText('reef-1 is online.').waitFor();
				await inspect(page, 'byoc-online');
				await page.getByRole('button', { name: 'Done' }).click();

				await row.getByText('Online').waitFor();
				const dot = row.locator('[data-alive]');
				expect(await dot.evaluate((element) => getComputedStyle(element).animationName)).toBe('halo');
				await row.getByText('hetzner').waitFor();
				await row.getByText('fsn1').waitFor();
				await page.locator('[data-pill=total]').getByText('1').waitFor();
				await page.locator('[data-pill=online]').getByText('1').waitFor();

				// Drained and opened again; not to be enrolled anew while it is well.
				await row.getByRole('button', { name: 'Actions for reef-1' }).click();
				expect(await page.getByRole('menuitem', { name: /Enrol again/ }).getAttribute('aria-disabled')).toBe(
					'true'
				);
				await page.getByRole('menuitem', { name: /Drain/ }).click();
				await row.getByText('draining').waitFor();
				await row.getByRole('button', { name: 'Actions for reef-1' }).click();
				await page.getByRole('menuitem', { name: 'Take sandboxes again' }).click();
				await row.getByText('draining').waitFor({ state: 'detached' });
				await inspect(page, 'byoc-hosts');

				// Looked at while empty; a sandbox comes meanwhile: the refusal is shown like the preview.
				await row.getByRole('button', { name: 'Actions for reef-1' }).click();
				await page.getByRole('menuitem', { name: 'Delete' }).click();
				await page.getByText('No sandboxes are on it.').waitFor();
				await inspect(page, 'byoc-delete-empty');
				const { id } = await api<{ id: string }>('POST', '/v1/sandboxes', { memory_mb: 128 });
				await page.getByRole('button', { name: 'Delete host' }).click();
				await page.getByText('Sandboxes have come to this host since you looked.').waitFor();
				await page.locator('[data-doomed]').getByText(id).waitFor();
				const force = page.getByRole('button', { name: 'Force delete' });
				expect(await force.isDisabled()).toBe(true);
				await inspect(page, 'byoc-delete-force');
				await page.getByLabel('Type reef-1 to go on').fill('reef-1');
				await force.click();
				await page.getByRole('heading', { name: 'Bring your own cloud' }).waitFor();
				await agent.ended();
				expect((await api<{ status: string }>('GET', `/v1/sandboxes/${id}`)).status).toBe('stopped');
			},
			{ expected: /409/ }
		),
	300_000
);

it(
	'enrols a host again that was stopped, and follows its status without a reload',
	() =>
		withPage(async (page) => {
			await byoc(true);
			const made = await admin<{ host: Host; registration_token: string }>('POST', '/v1/hosts', {
				type: 'byoc',
				team_id: team,
				name: 'reef-2'
			});
			await enter(page, '/dashboard/byoc');
			const row = page.locator(`[data-row="${made.host.id}"]`);
			await row.getByText('Pending').waitFor();
			agent = new Agent();
			agent.start(`ATOLL_REGISTER=${made.registration_token}`);
			await row.getByText('Online').waitFor({ timeout: 90_000 });
			await agent.stop();
			await row.getByText('Offline').waitFor({ timeout: 90_000 });
			await row.getByRole('button', { name: 'Actions for reef-2' }).click();
			await page.getByRole('menuitem', { name: /Enrol again/ }).click();
			const command = await page
				.getByRole('dialog')
				.locator('code')
				.filter({ hasText: 'ATOLL_REGISTER' })
				.innerText();
			expect(command).not.toContain(made.registration_token);
			agent.start(command);
			await page.locator('[data-enrolment=online]').waitFor({ timeout: 90_000 });
			await page.getByRole('button', { name: 'Done' }).click();
			await row.getByText('Online').waitFor();

			// By its name.
			await row.getByRole('button', { name: 'Actions for reef-2' }).click();
			await page.getByRole('menuitem', { name: 'Rename' }).click();
			await page.getByRole('textbox', { name: 'Name' }).fill('outer-reef');
			await page.getByRole('button', { name: 'Rename' }).click();
			await row.getByText('outer-reef', { exact: true }).waitFor();

			// Its times are relative, and exact for those who ask; its columns fold away where there is no room.
			const times = row.locator('time');
			expect(await times.count()).toBeGreaterThan(0);
			for (const time of await times.all())
				expect(await time.getAttribute('title')).toMatch(/\d{4}.*\d\d:\d\d/);
			const specs = page.getByRole('columnheader', { name: 'Specs' });
			await specs.waitFor();
			await page.setViewportSize({ width: 390, height: 800 });
			await specs.waitFor({ state: 'hidden' });
			await row.getByText('Online').waitFor();
			await page.setViewportSize({ width: 1280, height: 800 });

			// It falls silent, and is heard of again.
			expect(await page.locator('[data-pill=unreachable]').count()).toBe(0);
			agent.signal('SIGSTOP');
			await row.getByText('Unreachable').waitFor({ timeout: 90_000 });
			await page.locator('[data-pill=unreachable]').getByText('1').waitFor();
			await page.locator('[data-pill=online]').getByText('0').waitFor();
			await inspect(page, 'byoc-unreachable');
			agent.signal('SIGCONT');
			await row.getByText('Online').waitFor({ timeout: 90_000 });
			await page.locator('[data-pill=unreachable]').waitFor({ state: 'detached' });
		}),
	300_000
);

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
	['/dashboard/byoc', '**/v1/hosts?*']
])('shimmers at the final height while %s loads, and offers another try when that fails', (path, route) =>
	withPage(
		async (page) => {
			await byoc(true);
			await admin('POST', '/v1/hosts', { type: 'byoc', team_id: team, name: 'in-the-rack' });
			await enter(page, path);
			let answer = () => {};
			const held = new Promise<void>((resolve) => (answer = resolve));
			await failUntilPressed(page, route, 'the database is away', held);
			await page.reload();
			const ghost = page.locator('[data-shimmer]').first();
			await ghost.waitFor();
			const height = (await ghost.boundingBox())?.height;
			await inspect(page, `${path.slice(1).replace('/', '-')}-loading`);
			answer();
			await page.getByText('The database is away.').waitFor();
			await inspect(page, `${path.slice(1).replace('/', '-')}-error`);
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
		await enter(page);
		await page.getByRole('link', { name: 'Platform administration' }).click();
		await page.waitForURL(/\/admin\/hosts/);
		await page.getByRole('complementary').getByText('ADMIN', { exact: true }).waitFor();
		expect(await page.locator('[data-sidebar] [data-admin-bar]').count()).toBe(1);
		await page.getByRole('tab', { name: /Platform\s*1/ }).waitFor();
		await page.getByRole('tab', { name: /BYOC\s*1/ }).click();
		const group = page.locator('[data-team]');
		await group.getByText('brought', { exact: true }).waitFor();
		await page.locator('[data-pill=pending]').getByText('1').waitFor();
		await inspect(page, 'admin-hosts-byoc');
		await page.reload();
		await group.getByText('brought', { exact: true }).waitFor();
		await page.getByRole('tab', { name: /Platform/ }).click();
		await page.getByRole('button', { name: 'Add host' }).click();
		await page.getByRole('dialog').getByRole('button', { name: 'Add host' }).click();
		await page.getByLabel('Registration token').waitFor();
		await page.getByRole('dialog').getByRole('button', { name: 'Close' }).last().click();
		await page.locator('[data-pill=pending]').getByText('1').waitFor();
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

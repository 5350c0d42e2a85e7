// The life of a team's own host, from its registration to its end, as its owners see it.
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';

import { Agent } from './agent';
import { admin, api, enter, inspect, logIn, useBrowser, withPage } from './harness';
import { joins, newPerson } from './people';

interface Host {
	id: string;
	name: string;
	status: string;
	type: string;
	draining: boolean;
	address?: string;
	cpu_cores?: number;
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
				await page.getByRole('dialog').getByRole('button', { name: 'Copy command' }).click();
				await expect.poll(() => page.evaluate('navigator.clipboard.readText()')).toBe(command);
				await page.locator('[data-enrolment=waiting]').waitFor();
				await inspect(page, 'byoc-token');

				// The row is there already, new, and pending.
				const row = page.locator('[data-row]').filter({ hasText: 'reef-1' });
				await row.getByText('Pending').waitFor({ state: 'attached' });
				const fresh = page.locator('[data-row][data-fresh]').filter({ hasText: 'reef-1' });
				await fresh.waitFor();
				expect(
					await fresh.evaluate((element) => {
						const { animationName, animationIterationCount } = getComputedStyle(element);
						return [animationName, animationIterationCount];
					})
				).toEqual(['arrive', '1']);

				agent = new Agent();
				agent.start(command);
				await page.locator('[data-enrolment=online]').waitFor({ timeout: 90_000 });
				await page.getByText('reef-1 is online.').waitFor();
				await inspect(page, 'byoc-online');
				await page.getByRole('button', { name: 'Done' }).click();
				await page.getByRole('dialog').waitFor({ state: 'detached' });
				expect(await page.content()).not.toContain(token);

				await row.getByText('Online').waitFor();
				for (const dot of [row.locator('[data-alive]'), page.locator('[data-pill=online] [data-alive]')])
					expect(await dot.evaluate((element) => getComputedStyle(element).animationName)).toBe('halo');
				const host = await admin<Host>('GET', `/v1/hosts/${await row.getAttribute('data-row')}`);
				await row.getByText(String(host.address), { exact: true }).waitFor();
				await row.getByText(`${host.cpu_cores} core`).waitFor();
				await row.getByText('hetzner').waitFor();
				await row.getByText('fsn1').waitFor();
				await page.locator('[data-pill=total]').getByText('1').waitFor();
				await page.locator('[data-pill=online]').getByText('1').waitFor();

				// Drained and opened again; not to be enrolled anew while it is well.
				await row.getByRole('button', { name: 'Actions for reef-1' }).click();
				expect(await page.getByRole('menuitem', { name: /Enrol again/ }).getAttribute('aria-disabled')).toBe(
					'true'
				);
				const running = await api<{ id: string }>('POST', '/v1/sandboxes', { memory_mb: 128 });
				await page.getByRole('menuitem', { name: /Drain/ }).click();
				await row.getByText('draining').waitFor();
				// What is left on it, and what that waits for; live until nothing is.
				await row.getByRole('button', { name: 'Actions for reef-1' }).click();
				await page.getByRole('menuitem', { name: 'What is left' }).click();
				await page.getByText('1 sandbox is left.').waitFor();
				const left = page.getByRole('dialog').locator('li').filter({ hasText: running.id });
				await left.locator('[data-waits]').getByText('it runs; it moves when it is paused').waitFor();
				await inspect(page, 'byoc-draining');
				await api('DELETE', `/v1/sandboxes/${running.id}`);
				await page.getByText('Nothing is left on it.').waitFor();
				await page.getByRole('dialog').getByRole('button', { name: 'Close' }).last().click();
				await row.getByText('drained').waitFor();
				await row.getByRole('button', { name: 'Actions for reef-1' }).click();
				await page.getByRole('menuitem', { name: 'Take sandboxes again' }).click();
				await row.getByText('drained').waitFor({ state: 'detached' });
				await inspect(page, 'byoc-hosts');

				// Looked at while empty; a sandbox comes meanwhile: the refusal is shown like the preview.
				await row.getByRole('button', { name: 'Actions for reef-1' }).click();
				await page.getByRole('menuitem', { name: 'Delete' }).click();
				await page.getByText('No sandboxes are on it.').waitFor();
				await inspect(page, 'byoc-delete-empty');
				const volume = await api<{ id: string }>('POST', '/v1/volumes', { name: 'reef-data', size_mb: 64 });
				const { id } = await api<{ id: string }>('POST', '/v1/sandboxes', {
					memory_mb: 128,
					volumes: [{ volume: 'reef-data', path: '/mnt/data' }]
				});
				await page.getByRole('button', { name: 'Delete host' }).click();
				await page.getByText('Something has come to this host since you looked.').waitFor();
				await page.locator('[data-doomed]').getByText(id).waitFor();
				// What lies on it goes too, by name, to be copied and looked for.
				const lost = page.locator('[data-lost=volumes]');
				await lost.getByText(volume.id).waitFor();
				await lost.getByRole('button', { name: 'Copy volume id' }).click();
				await expect.poll(() => page.evaluate('navigator.clipboard.readText()')).toBe(volume.id);
				const amber = page.locator('[data-consequences]');
				const [is, warning] = await amber.evaluate((one) => {
					const probe = one.appendChild(document.createElement('i'));
					probe.style.background = 'var(--warn-soft)';
					const colours = [one, probe].map((of) => getComputedStyle(of).backgroundColor);
					probe.remove();
					return colours;
				});
				expect(is).toBe(warning);
				const force = page.getByRole('button', { name: 'Force delete' });
				expect(await force.isDisabled()).toBe(true);
				await inspect(page, 'byoc-delete-force');
				await page.getByRole('button', { name: 'Keep it' }).click();

				// Looked at again: the preview comes first, and nothing can be deleted before it is there.
				let answer = () => {};
				const held = new Promise<void>((resolve) => (answer = resolve));
				await page.route('**/delete-preview', async (asked) => {
					await held;
					await asked.continue();
				});
				await row.getByRole('button', { name: 'Actions for reef-1' }).click();
				await page.getByRole('menuitem', { name: 'Delete' }).click();
				await page.locator('[data-preview=loading]').waitFor();
				expect(await page.getByRole('button', { name: 'Delete host' }).isDisabled()).toBe(true);
				answer();
				await page.locator('[data-doomed]').getByText(id).waitFor();
				expect(await page.getByText('Something has come to this host since you looked.').count()).toBe(0);
				await page.getByLabel('Type reef-1 to go on').fill('reef-2');
				expect(await force.isDisabled()).toBe(true);
				await page.getByLabel('Type reef-1 to go on').fill('reef-1');
				await force.click();
				await page.getByRole('heading', { name: 'Bring your own cloud' }).waitFor();
				await agent.ended();
				expect((await api<{ status: string }>('GET', `/v1/sandboxes/${id}`)).status).toBe('stopped');
				expect((await api<{ lost: boolean }>('GET', '/v1/volumes/reef-data')).lost).toBe(true);
				await api('DELETE', '/v1/volumes/reef-data');
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
			await page.getByText(/^A new token ends those before it/).waitFor();
			await page.getByRole('button', { name: 'Make a new token' }).click();
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

it('lets an admin of the team register a host as an owner can', () =>
	withPage(async (page) => {
		await byoc(true);
		const person = await newPerson('Ada');
		await joins(person, 'admin');
		await page.goto('/login?next=/dashboard/byoc');
		await logIn(page, person.password, person.email);
		await page.getByRole('button', { name: /Team:/ }).click();
		await page.getByRole('menuitem', { name: /Default/ }).click();
		await page.getByRole('link', { name: 'Your hosts' }).click();
		await page.getByRole('button', { name: 'Register host' }).first().click();
		await page.getByRole('dialog').getByRole('button', { name: 'Register host' }).click();
		expect(await page.getByLabel('Registration token').inputValue()).toMatch(/^atr_/);
		await page.getByRole('dialog').getByRole('button', { name: 'Close' }).last().click();
		await page.locator('[data-row]').getByText('Pending').waitFor();
	}));

// A walk over a page with the keyboard alone.
import type { Page } from 'playwright-core';
import { expect } from 'vitest';

/** What can be pressed or typed into, in the order of Tab, each by a number of its own. */
const REACHABLE = `[...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex]')]
	.filter((one) => one.tabIndex >= 0 && !one.disabled && one.checkVisibility({ visibilityProperty: true })
		&& one.getClientRects().length > 0 && (one.type !== 'radio' || one.checked))
	.map((one, at) => ((one.dataset.at ??= String(at)), one.dataset.at))`;
/** Notes where the keyboard comes, and whether one sees it. */
const WATCH = `(() => {
	window.steps = [];
	document.addEventListener('focusin', ({ target }) => {
		const { outlineStyle, outlineWidth } = getComputedStyle(target);
		const { top, bottom, left, right } = target.getBoundingClientRect();
		window.steps.push({
			at: target.dataset.at ?? '',
			what: target.outerHTML.slice(0, 120),
			ring: (outlineStyle !== 'none' && parseFloat(outlineWidth) >= 1) || target.matches('input, textarea'),
			inView: bottom > 0 && right > 0 && top < innerHeight && left < innerWidth
		});
	});
})()`;
interface Step {
	at: string;
	what: string;
	ring: boolean;
	inView: boolean;
}
/** Of a long list the first are enough. */
const MOST = 45;

/** Goes from stop to stop with Tab: everything is reached, each stop is seen and in sight. More than `least` are there. */
export async function walk(page: Page, path: string, least: number): Promise<void> {
	await page.locator('h1').first().waitFor();
	await expect.poll(() => page.locator('[aria-busy=true]').count()).toBe(0);
	const all = await page.evaluate<string[]>(REACHABLE);
	expect(all.length, path).toBeGreaterThan(least);
	await page.evaluate(WATCH);
	const count = Math.min(all.length, MOST);
	const press = async (times: number) => {
		for (let step = 0; step < times; step += 1) await page.keyboard.press('Tab');
		return page.evaluate<Step[]>('steps');
	};
	const left = (steps: Step[]) => {
		const reached = new Set(steps.map(({ at }) => at));
		return all.slice(0, count).filter((at) => !reached.has(at));
	};
	let steps = await press(count + 2);
	// A button that has come meanwhile is one more stop on the way.
	for (let more = 0; more < 5 && left(steps).length > 0; more += 1) steps = await press(2);
	expect(
		steps.filter(({ ring }) => !ring).map(({ what }) => what),
		`the focus can't be seen on ${path}`
	).toEqual([]);
	expect(
		steps.filter(({ inView }) => !inView).map(({ what }) => what),
		`the focus is out of sight on ${path}`
	).toEqual([]);
	const missed = left(steps);
	const names = await page.evaluate(
		(of) => of.map((at) => document.querySelector(`[data-at="${at}"]`)?.outerHTML.slice(0, 120)),
		missed
	);
	expect(names.filter(Boolean), `Tab does not reach these of ${path}`).toEqual([]);
}

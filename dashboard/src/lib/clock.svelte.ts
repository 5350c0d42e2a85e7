// One clock for all relative times on a page: they tick together, once a second, only while the page is looked at.
class Clock {
	now = $state(Date.now());

	constructor() {
		setInterval(() => {
			if (document.visibilityState === 'visible') this.now = Date.now();
		}, 1000);
		document.addEventListener('visibilitychange', () => (this.now = Date.now()));
	}
}

export const clock = new Clock();

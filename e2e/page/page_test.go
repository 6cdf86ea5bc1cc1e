package page

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// deathSeen is how long the end of a backend may be unseen, from the beginning of its DEL.
const deathSeen = 2 * time.Second

// screenshots is set to the folder that pictures of the page are to be written to.
const screenshots = "WEFT_SCREENSHOTS"

// row is the text of a row of a table, as an expression; a key begins with the text.
func row(key string) string {
	return fmt.Sprintf(`(document.querySelector('tr[data-key^="%s"]')?.innerText ?? '')`, key)
}

// A person clicks through the page, a backend dies, and the page says so.
func TestABackendIsSeenToDie(t *testing.T) {
	w := newWorld(t)
	b := open(t, w.Nodes[0].NS)
	b.call("Page.navigate", map[string]any{"url": w.page}, nil)

	b.sees("the overview", `document.querySelector('h1').innerText === 'Overview' && /2 pods|1 other node/.test(summary.innerText)`)
	b.sees("both daemons", `[...daemon.options].map((o) => o.text).join() === 'node-1,node-2'`)
	b.sees("drops by reason", `/dropped, refused/i.test(document.body.innerText)`)

	b.click(`a[href="#/nodes"]`, `location.hash === '#/nodes'`)
	b.sees("that node-2 is reached", row("node-2")+`.includes('ok')`)
	b.sees("which view it is", `document.querySelector('nav a[aria-current=page]').innerText === 'Nodes' && document.activeElement === title`)

	b.click(`a[href="#/services"]`, `location.hash === '#/services'`)
	b.sees("a part of all Services", `document.querySelectorAll('tbody tr').length === 50 && place.innerText === 'Page 1 of 3'`)
	b.sees("flows of the Service", `Number(document.querySelector('tr[data-key^="default/web"]').cells[4].innerText) > 0`)
	eval[bool](b, `(forth.focus(), true)`)
	b.press("Enter")
	b.sees("the next page", `place.innerText === 'Page 2 of 3' && `+row("many/svc-060")+` && !`+row("default/web"))
	b.click("#text", `document.activeElement === text`)
	b.call("Input.insertText", map[string]any{"text": "10.96.0.2"}, nil)
	b.sees("the Service with that address", `document.querySelectorAll('tbody tr').length === 1 && `+row("default/web"))

	b.click(`a[href="#/addresses"]`, `location.hash === '#/addresses'`)
	for _, a := range []string{"192.0.2.80", "2001:db8:80::80"} {
		b.sees("the address "+a, row(a)+`.includes('default/web')`)
	}
	w.moves(t, b)

	b.click(`a[href="#/service/default/web"]`, `location.hash === '#/service/default/web'`)
	for _, p := range []string{w.one.IP4.String(), "[" + w.one.IP6.String() + "]", w.two.IP4.String(), "[" + w.two.IP6.String() + "]"} {
		b.sees("a ready backend "+p, row(p+":8080/TCP")+`.includes('ready')`)
	}
	if bad := b.complaints(); len(bad) > 0 {
		t.Errorf("the page's console complains: %s", strings.Join(bad, "\n"))
	}
	w.dies(t, b)
	b.sees("what a screen reader is told", `/default\/two \S+ gone/.test(said.innerText)`)
	b.sees("that one is left", `/backends: 2 ready;/.test(summary.innerText)`)
	b.shot("web")
	if bad := b.complaints(); len(bad) > 0 {
		t.Errorf("the page's console complains: %s", strings.Join(bad, "\n"))
	}

	// The page is what another node sees, too; and it says when that does not answer.
	eval[bool](b, `(daemon.value = '1', daemon.dispatchEvent(new Event('change')))`)
	b.sees("node-2's Service without the dead backend", row(w.one.IP4.String())+`.includes('ready') && !`+row(w.two.IP4.String()))
	must(t, w.Nodes[1].Kill())
	b.sees("that node-2 does not answer", `!trouble.hidden && /no answer/.test(trouble.innerText) && /no answer/.test(node.innerText)`)
	must(t, w.Nodes[1].Start())
	b.sees("that it does again", `trouble.hidden && /ready/.test(node.innerText) && `+row(w.one.IP4.String()))
}

// moves cuts off the node that announces an address, and sees the other take over, and give
// it back when the node is there again.
func (w *world) moves(t *testing.T, b *browser) {
	t.Helper()
	at, one, two := "192.0.2.80", w.Nodes[0].Name, w.Nodes[1]
	b.sees("the column of announcers", `document.querySelectorAll('thead th')[5].innerText === 'Announced by'`)
	by := func(name string) string {
		return fmt.Sprintf(`document.querySelector('tr[data-key^="%s "]').cells[5].innerText === '%s'`, at, name)
	}
	b.sees("that "+two.Name+" announces "+at, by(two.Name))
	b.sees("that "+one+" announces the other address", `document.querySelector('tr[data-key^="2001:db8:80::80 "]').cells[5].innerText === '`+one+`'`)
	must(t, w.Bridge.IP("link", "set", two.Name, "down"))
	b.sees("that "+one+" has taken over", by(one))
	must(t, w.Bridge.IP("link", "set", two.Name, "up"))
	b.sees("that "+two.Name+" announces it again", by(two.Name))
}

// dies removes a backend, and holds the time until the page shows it as gone: as the page's
// own clock has it, so that how busy this test is does not count.
func (w *world) dies(t *testing.T, b *browser) {
	t.Helper()
	key := w.two.IP4.String() + ":8080/TCP"
	eval[bool](b, fmt.Sprintf(`(window.goneAt = 0, new MutationObserver(() => {
		if (!window.goneAt && %s.includes('gone')) window.goneAt = Date.now();
	}).observe(document.body, {subtree: true, childList: true, characterData: true}), true)`, row(key)))
	began := time.Now()
	must(t, w.two.Del(t.Context()))
	deleted := time.Since(began)
	b.sees("that the backend is gone", `window.goneAt`)
	took := time.UnixMilli(eval[int64](b, `window.goneAt`)).Sub(began)
	t.Logf("the page showed the backend as gone %d ms after its DEL began (which took %d ms)", took.Milliseconds(), deleted.Milliseconds())
	if took > deathSeen {
		t.Errorf("the page showed it after %s, want at most %s", took, deathSeen)
	}
}

// shot writes a picture, if they are wanted.
func (b *browser) shot(name string) {
	if dir := os.Getenv(screenshots); dir != "" {
		b.screenshot(filepath.Join(dir, name+".png"))
	}
}

// The page is used by keys alone, each control has a name, and each text can be read, in
// light and in dark.
func TestPageIsForEveryone(t *testing.T) {
	w := newWorld(t)
	b := open(t, w.Nodes[0].NS)
	b.call("Page.navigate", map[string]any{"url": w.page}, nil)
	b.sees("the overview", `document.querySelector('h1')?.innerText === 'Overview' && daemon.options.length === 2`)

	for range 3 { // past the link to the content, and the overview
		b.press("Tab")
	}
	b.sees("the focus on Services", `document.activeElement.innerText === 'Services'`)
	b.press("Enter")
	b.sees("Services", `location.hash === '#/services' && document.activeElement === title && `+row("default/web"))
	b.press("Tab")
	b.sees("the focus on the search", `document.activeElement === text`)

	var tree struct {
		Nodes []struct {
			Ignored    bool
			Role, Name struct{ Value json.RawMessage }
		}
	}
	b.call("Accessibility.getFullAXTree", nil, &tree)
	names := map[string]int{}
	for _, n := range tree.Nodes {
		role := strings.Trim(string(n.Role.Value), `"`)
		if n.Ignored || !slices.Contains([]string{"link", "button", "searchbox", "combobox", "checkbox", "table", "navigation", "main", "heading"}, role) {
			continue
		}
		names[role]++
		if name := string(n.Name.Value); role != "main" && (name == `""` || name == "") {
			t.Errorf("a %s has no name for a screen reader", role)
		}
	}
	for _, role := range []string{"link", "button", "searchbox", "combobox", "checkbox", "table", "navigation", "main", "heading"} {
		if names[role] == 0 {
			t.Errorf("a screen reader finds no %s", role)
		}
	}

	b.sees("flows", `Number(document.querySelector('tr[data-key^="default/web"]').cells[4].innerText) > 0`)
	backs := map[string]bool{}
	for _, scheme := range []string{"light", "dark"} {
		b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
		backs[eval[string](b, `getComputedStyle(document.body).backgroundColor`)] = true
		for text, contrast := range eval[map[string]float64](b, contrasts) {
			if contrast < 4.5 { // WCAG 2.2, 1.4.3
				t.Errorf("%s: contrast of %s is %.1f, want at least 4.5", scheme, text, contrast)
			}
		}
	}
	b.shot("web-dark")
	if len(backs) != 2 {
		t.Errorf("backgrounds are %v, want one for light and one for dark", backs)
	}
	if bad := b.complaints(); len(bad) > 0 {
		t.Errorf("the page's console complains: %s", strings.Join(bad, "\n"))
	}
}

// contrasts is the contrast (WCAG 2.2, "contrast ratio") of each colour of text to each
// that it may stand on.
const contrasts = `(() => {
	const style = getComputedStyle(document.documentElement);
	const light = (name) => {
		const [r, g, b] = style.getPropertyValue('--' + name).trim().slice(1).match(/../g).map((x) => {
			const v = parseInt(x, 16) / 255;
			return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
		});
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const out = {};
	for (const [text, backs] of Object.entries({
		fore: ['back', 'field', 'fresh'], faint: ['back'], link: ['back', 'field', 'fresh'], back: ['link'],
		good: ['back', 'field', 'fresh'], warn: ['back', 'field', 'fresh'], bad: ['back', 'field', 'fresh', 'alarm'],
	})) {
		for (const back of backs) {
			const [a, b] = [light(text), light(back)].sort((x, y) => y - x);
			out[text + ' on ' + back] = (a + 0.05) / (b + 0.05);
		}
	}
	return out;
})()`

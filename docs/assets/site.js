// The theme gives the search dialog no name for screen readers, and wraps wide tables in boxes that a keyboard cannot scroll.
document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
function letKeyboardScrollTables() {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) {
    box.tabIndex = 0;
  }
}
letKeyboardScrollTables();
new MutationObserver(letKeyboardScrollTables).observe(document.body, { childList: true, subtree: true });

// Names in narrow columns break after an underscore, before they break anywhere.
for (const code of document.querySelectorAll(".md-typeset td code:not(:has(*))")) {
  code.innerHTML = code.innerHTML.replaceAll("_", "_<wbr>");
}

// Short names stay whole: the ending of a file in a narrow column, and an option, which would break after its dashes.
for (const code of document.querySelectorAll(".md-typeset :not(pre) > code")) {
  if (/^\S{1,12}$/.test(code.textContent)) {
    code.style.whiteSpace = "nowrap";
  }
}
